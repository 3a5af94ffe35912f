"""The fit of the continuation network on the code length of true excitations."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from songcast.continuation.network import code_length_bits
from songcast.training.continuation_examples import Sampler, batches
from songcast.training.fit import averaged_weights, averaging_trainer

Row = dict[str, float]
WARMUP_SHARE, AVERAGE_MOMENTUM = 0.1, 0.98
# Batches that an epoch is judged by.
CHECKS = 6


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How long and how fast to learn."""

    epochs: int
    steps_per_epoch: int
    learning_rate: float


def fit(
    network: Any,
    learn: Sampler,
    check: Sampler,
    settings: FitSettings,
    on_epoch: Callable[[int, Row], None],
) -> list[Row]:
    """Train ``network`` in place; return one row per epoch.

    Rows hold ``step`` (the epoch), ``train_bits`` and ``validation_bits``: the differential code
    length of an excitation sample; white Gaussian noise at unit level would have 2.05. The
    network ends with the moving average of its weights that was best on ``check``.
    """
    trainer = averaging_trainer(
        network,
        code_length_bits,
        settings.epochs * settings.steps_per_epoch,
        settings.learning_rate,
        momentum=AVERAGE_MOMENTUM,
        warmup_share=WARMUP_SHARE,
    )
    checks = [check.batch(0, i, noisy=False) for i in range(CHECKS)]
    rows: list[Row] = []
    best = network.get_weights()
    for epoch in range(settings.epochs):
        losses = []
        for inputs, target in batches(learn, epoch, settings.steps_per_epoch):
            losses.append(trainer.train_on_batch(inputs, target))
        with averaged_weights(trainer):
            found = [trainer.test_on_batch(*batch) for batch in checks]
            average = network.get_weights()
        row = {
            "step": float(epoch),
            "train_bits": float(np.mean(losses)),
            "validation_bits": float(np.mean(found)),
        }
        if all(row["validation_bits"] <= other["validation_bits"] for other in rows):
            best = average
        rows.append(row)
        on_epoch(epoch, row)
    network.set_weights(best)
    return rows

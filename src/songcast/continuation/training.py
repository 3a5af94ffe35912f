"""Fitting the continuation network: code length of true excitations, heard with drifting levels."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from songcast.backend import import_keras
from songcast.continuation.network import code_length_bits
from songcast.continuation.views import Sampler, batches
from songcast.training import averaged_weights

keras = import_keras()

Row = dict[str, float]
WARMUP_SHARE, LAST_SHARE = 0.1, 0.02
CLIP_NORM, AVERAGE_MOMENTUM = 1.0, 0.98
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
    trainer = _trainer(network, settings)
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


def _trainer(network: Any, settings: FitSettings) -> Any:
    steps = settings.epochs * settings.steps_per_epoch
    warmup = max(round(steps * WARMUP_SHARE), 1)
    schedule = keras.optimizers.schedules.CosineDecay(
        settings.learning_rate * 0.05,
        decay_steps=max(steps - warmup, 1),
        alpha=LAST_SHARE,
        warmup_target=settings.learning_rate,
        warmup_steps=warmup,
    )
    optimizer = keras.optimizers.Adam(
        schedule, global_clipnorm=CLIP_NORM, use_ema=True, ema_momentum=AVERAGE_MOMENTUM
    )
    trainer = keras.Model(network.inputs, network.outputs[0], name="trainer")
    trainer.compile(optimizer=optimizer, loss=code_length_bits)
    optimizer.build(trainer.trainable_variables)
    return trainer

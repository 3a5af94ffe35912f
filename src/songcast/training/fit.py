"""The fit loop of both networks: optimiser, schedule, checkpoints, resume.

Training ends with a moving average of the weights (Polyak & Juditsky, 1992), taken at the
epoch with the best validation code length.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from songcast.distributed.data_parallel import WorkerGroup
from songcast.errors import ParamsError
from songcast.forecasting.forecaster import prefetch
from songcast.training.checkpoint import Checkpoint

# The learning rate rises from FIRST_SHARE of its peak and falls along a cosine to LAST_SHARE.
FIRST_SHARE, LAST_SHARE = 0.05, 0.02
CLIP_NORM = 1.0

ALONE = WorkerGroup()
TRAIN_BITS, VALIDATION_BITS = "train_bits_per_sample", "validation_bits_per_sample"
Row = dict[str, float]
# Inputs of the network, in the order in which it takes them, and the target.
NetworkBatch = tuple[Sequence[NDArray[Any]], NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How long and how fast to train.

    ``warmup_share``: of all steps, during which the learning rate rises to ``learning_rate``.
    ``average_momentum``: of the moving average of the weights, per step.
    """

    epochs: int
    steps_per_epoch: int
    learning_rate: float
    warmup_share: float = 0.05
    average_momentum: float = 0.99


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What a network is fitted to.

    ``loss``: Keras loss, in bits per sample, of the network's first output. ``batch``: gives
    batch number i of epoch j from (j, i), the same one at every call. ``validate``: takes the
    Keras model with the averaged weights and returns a code length in bits per validation song.
    """

    loss: Callable[..., Any]
    batch: Callable[[int, int], NetworkBatch]
    validate: Callable[[Any], Sequence[float]]


def fit(
    network: Any,
    objective: Objective,
    settings: FitSettings,
    checkpoint: Checkpoint,
    on_epoch: Callable[[int, Row], None],
    on_step: Callable[[int], None] | None = None,
    group: WorkerGroup = ALONE,
) -> list[Row]:
    """Train ``network`` in place; return one row per epoch.

    Rows hold ``step`` (the epoch), ``train_bits_per_sample`` and ``validation_bits_per_sample``.
    Each epoch ends with a checkpoint. A training that was interrupted in any way resumes from
    the last one and ends with the same weights as an uninterrupted one. In a ``group``, only
    the first worker writes checkpoints, reports, and ends with the best weights. Raises
    ``ParamsError`` if the training diverged in every epoch.
    """
    trainer = compile_trainer(network, objective.loss, settings, group)
    rows = checkpoint.restore(trainer)
    best = min((row[VALIDATION_BITS] for row in rows), default=math.inf)
    for epoch in range(len(rows), settings.epochs):
        losses = []
        # Batch by batch, not by `fit`: TensorFlow's generator dataset sets malloc's trim threshold
        # to 128 kB, after which every large array is faulted in anew (half the speed). A thread
        # prepares the next batch while the network learns from the last one.
        draw = partial(objective.batch, epoch)
        for index, (inputs, target) in prefetch(draw, range(settings.steps_per_epoch)):
            losses.append(trainer.train_on_batch(inputs, target))
            if on_step:
                on_step(epoch * settings.steps_per_epoch + index + 1)
        with averaged_weights(trainer):
            bits = objective.validate(trainer)
            average = network.get_weights()
        train_bits, total, songs = group.mean(np.array([np.mean(losses), np.sum(bits), len(bits)]))
        row = {
            "step": float(epoch),
            TRAIN_BITS: float(train_bits),
            VALIDATION_BITS: float(total / songs) if songs else math.inf,
        }
        rows.append(row)
        improved = row[VALIDATION_BITS] <= best
        best = min(best, row[VALIDATION_BITS])
        if group.rank == 0:
            checkpoint.save(trainer, rows, average if improved else None)
            on_epoch(epoch, row)
    if group.rank == 0:
        if all(math.isnan(row[VALIDATION_BITS]) for row in rows):
            raise ParamsError("params.yaml: training diverged in every epoch; lower learning_rate")
        network.set_weights(checkpoint.best_weights())
    return rows


def compile_trainer(
    network: Any, loss: Callable[..., Any], settings: FitSettings, group: WorkerGroup = ALONE
) -> Any:
    """Return a Keras model over the weights of ``network`` that learns its first output."""
    import keras

    steps = settings.epochs * settings.steps_per_epoch
    warmup = max(round(steps * settings.warmup_share), 1)
    schedule = keras.optimizers.schedules.CosineDecay(
        settings.learning_rate * FIRST_SHARE,
        decay_steps=max(steps - warmup, 1),
        alpha=LAST_SHARE,
        warmup_target=settings.learning_rate,
        warmup_steps=warmup,
    )
    optimizer = group.optimizer(keras.optimizers.Adam)(
        schedule,
        global_clipnorm=CLIP_NORM,
        use_ema=True,
        ema_momentum=settings.average_momentum,
    )
    trainer = keras.Model(network.inputs, network.outputs[0], name="trainer")
    trainer.compile(optimizer=optimizer, loss=loss)
    optimizer.build(trainer.trainable_variables)
    return trainer


@contextmanager
def averaged_weights(trainer: Any) -> Iterator[None]:
    """Give the model the moving average of its weights inside the block."""
    own = trainer.get_weights()
    trainer.optimizer.finalize_variable_values(trainer.trainable_variables)
    # On JAX the weights are now the averages' own buffers, which predicting would consume.
    trainer.set_weights([np.array(average) for average in trainer.get_weights()])
    try:
        yield
    finally:
        trainer.set_weights(own)

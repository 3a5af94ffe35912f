"""Fit the network of the LSTM forecaster, in this process or in several of a Ray cluster.

Training ends with a moving average of the weights (Polyak & Juditsky, 1992), taken at the
epoch with the best validation code length.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from songcast.config import FitParams
from songcast.distributed import cluster
from songcast.distributed.data_parallel import TensorflowWorkerGroup, WorkerGroup
from songcast.errors import ParamsError
from songcast.files import FEATURES, user_cache
from songcast.forecasting.forecaster import prefetch
from songcast.forecasting.lstm import LstmForecaster
from songcast.forecasting.network import code_length_bits, network_of
from songcast.training.batches import CropSampler
from songcast.training.checkpoint import Checkpoint
from songcast.training.feature_cache import compute_features, in_use
from songcast.training.validation import song_bits, validation_songs

# The learning rate rises from FIRST_SHARE of its peak and falls along a cosine to LAST_SHARE.
FIRST_SHARE, LAST_SHARE = 0.05, 0.02
# The share of all steps in which it rises; the momentum of the moving average, per step.
WARMUP_SHARE, AVERAGE_MOMENTUM = 0.05, 0.99
CLIP_NORM = 1.0

ALONE = WorkerGroup()
TRAIN_BITS, VALIDATION_BITS = "train_bits_per_sample", "validation_bits_per_sample"
Row = dict[str, float]


def fit_forecaster(
    network: Any,
    sampler: CropSampler,
    params: FitParams,
    checkpoint: Checkpoint,
    on_epoch: Callable[[int, Row], None],
    on_step: Callable[[int], None] | None = None,
    group: WorkerGroup = ALONE,
) -> list[Row]:
    """Train ``network`` in place on crops from ``sampler``; return one row per epoch.

    Rows hold ``step`` (the epoch), ``train_bits_per_sample`` and ``validation_bits_per_sample``,
    measured on ``songs``. Missing features are computed first. Each epoch ends with a checkpoint. A
    training that was interrupted in any way resumes from the last one and ends with the same
    weights as an uninterrupted one. In a ``group``, each worker has its share of the batches and
    songs, and computes their features alone; only the first one writes checkpoints, reports, and
    ends with the best weights. Raises ``ParamsError`` if the training diverged in every epoch.
    """
    trainer = compile_trainer(network, params, group)
    to_read, to_measure = sampler.share(group.rank, group.workers)
    own = {song.slug for song in to_measure}
    own_songs = [song for song in validation_songs(sampler.songs) if song.slug in own]
    # A crop starts without a past: the state of the LSTM is zero.
    crops = sampler.batch_size // group.workers
    state = np.zeros((crops, *network.input_shape[-1][1:]), np.float32)
    rows = checkpoint.restore(trainer)
    best = min((row[VALIDATION_BITS] for row in rows), default=math.inf)
    if len(rows) < params.epochs:
        compute_features([*to_read, *own_songs])
    for epoch in range(len(rows), params.epochs):
        losses = []

        def draw(index: int, epoch: int = epoch) -> Any:
            return sampler.batch(epoch, index, group.rank, group.workers)

        # Batch by batch, not by `fit`: TensorFlow's generator dataset sets malloc's trim threshold
        # to 128 kB, after which every large array is faulted in anew (half the speed). A thread
        # prepares the next batch while the network learns from the last one.
        for index, (inputs, target) in prefetch(draw, range(params.steps_per_epoch)):
            losses.append(trainer.train_on_batch([*inputs.values(), state], target))
            if on_step:
                on_step(epoch * params.steps_per_epoch + index + 1)
        with averaged_weights(trainer):
            bits = song_bits(network, own_songs)
            average = network.get_weights()
        train_bits, total, count = group.mean(np.array([np.mean(losses), np.sum(bits), len(bits)]))
        row = {
            "step": float(epoch),
            TRAIN_BITS: float(train_bits),
            VALIDATION_BITS: float(total / count) if count else math.inf,
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
        network.set_weights(checkpoint.best)
    return rows


def compile_trainer(network: Any, params: FitParams, group: WorkerGroup = ALONE) -> Any:
    """Return a Keras model over the weights of ``network`` that learns its mixture."""
    import keras

    steps = params.epochs * params.steps_per_epoch
    warmup = max(round(steps * WARMUP_SHARE), 1)
    schedule = keras.optimizers.schedules.CosineDecay(
        params.learning_rate * FIRST_SHARE,
        decay_steps=max(steps - warmup, 1),
        alpha=LAST_SHARE,
        warmup_target=params.learning_rate,
        warmup_steps=warmup,
    )
    optimizer = group.optimizer(keras.optimizers.Adam)(
        schedule,
        global_clipnorm=CLIP_NORM,
        use_ema=True,
        ema_momentum=AVERAGE_MOMENTUM,
    )
    trainer = keras.Model(network.inputs, network.outputs[0], name="trainer")
    trainer.compile(optimizer=optimizer, loss=code_length_bits)
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


def fit_on_cluster(
    model: LstmForecaster,
    opened: Callable[[Path], CropSampler],
    params: FitParams,
    checkpoint: Checkpoint,
    workers: int,
    on_epoch: Callable[[int, Row], None],
    cache: Path,
    cache_bytes: float,
) -> None:
    """Train the model's network in ``workers`` processes of a Ray cluster.

    ``opened`` returns the sampler with the features in a folder: ``cache`` on this machine, a
    folder of the user's cache on others, where it is limited to ``cache_bytes``. So features are
    computed where they are read. The result is the checkpoint: ``fit_forecaster`` finds all epochs
    done there.
    """
    weights, shape = model.weights, model.settings

    def work(rank: int, here: bool, report: Callable[[Row], None]) -> None:
        group = TensorflowWorkerGroup(rank, workers)
        folder = cache if here else user_cache() / FEATURES
        with in_use(folder, cache_bytes):
            fit_forecaster(
                network_of(shape, weights),
                *(opened(folder), params, checkpoint, lambda _, row: report(row)),
                group=group,
            )

    cluster.train(
        work,
        workers=workers,
        folder=checkpoint.folder / "ray",
        on_report=lambda row: on_epoch(int(row["step"]), row),
    )

"""Fit the network of the LSTM forecaster, in this process or in several of a Ray cluster."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from songcast.distributed import cluster
from songcast.distributed.data_parallel import TensorflowWorkerGroup, WorkerGroup
from songcast.forecasting.lstm import LstmForecaster
from songcast.forecasting.network import code_length_bits, network_of
from songcast.training.batches import CropSampler
from songcast.training.checkpoint import Checkpoint
from songcast.training.feature_cache import SongFeatures
from songcast.training.fit import ALONE, FitSettings, NetworkBatch, Objective, Row, fit
from songcast.training.validation import song_bits, validation_songs


def fit_forecaster(
    network: Any,
    sampler: CropSampler,
    songs: Sequence[SongFeatures],
    settings: FitSettings,
    checkpoint: Checkpoint,
    on_epoch: Callable[[int, Row], None],
    on_step: Callable[[int], None] | None = None,
    group: WorkerGroup = ALONE,
) -> list[Row]:
    """Train ``network`` on crops from ``sampler``, see ``fit``; ``songs`` are validated on."""
    objective = forecaster_objective(network, sampler, songs, group)
    return fit(network, objective, settings, checkpoint, on_epoch, on_step, group)


def forecaster_objective(
    network: Any, sampler: CropSampler, songs: Sequence[SongFeatures], group: WorkerGroup = ALONE
) -> Objective:
    """Return this worker's share of the batches and of the validation songs, and the loss."""
    own_songs = validation_songs(songs)[group.rank :: group.workers]
    # A crop starts without a past: the state of the LSTM is zero.
    rows = sampler.batch_size // group.workers
    state = np.zeros((rows, *network.input_shape[-1][1:]), np.float32)

    def batch(epoch: int, index: int) -> NetworkBatch:
        inputs, target = sampler.batch(epoch, index, group.rank, group.workers)
        return [*inputs.values(), state], target

    return Objective(
        loss=code_length_bits, batch=batch, validate=lambda _: song_bits(network, own_songs)
    )


def fit_on_cluster(
    model: LstmForecaster,
    sampler: CropSampler,
    songs: Sequence[SongFeatures],
    settings: FitSettings,
    checkpoint: Checkpoint,
    workers: int,
    on_epoch: Callable[[int, Row], None],
) -> None:
    """Train the model's network in ``workers`` processes of a Ray cluster.

    The result is the checkpoint: ``fit_forecaster`` finds all epochs done there.
    """
    weights, shape = model.weights, model.settings

    def work(rank: int, report: Callable[[Row], None]) -> None:
        group = TensorflowWorkerGroup(rank, workers)
        copy = network_of(shape, weights)
        fit_forecaster(
            copy, sampler, songs, settings, checkpoint, lambda _, row: report(row), group=group
        )

    cluster.train(
        work,
        workers=workers,
        folder=checkpoint.folder / "ray",
        on_report=lambda row: on_epoch(int(row["step"]), row),
    )

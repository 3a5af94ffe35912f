"""The fit loop of the multi-song network: optimiser, schedule, checkpoints, resume.

Training ends with a moving average of the weights (Polyak & Juditsky, 1992), taken at the
epoch with the best validation code length.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from songcast.data.corpus import VALIDATION
from songcast.distributed.data_parallel import Team
from songcast.errors import ParamsError
from songcast.forecasting.keras_backend import import_keras
from songcast.forecasting.lstm import absolute_mixture
from songcast.forecasting.network import code_length_bits
from songcast.forecasting.prefetch import prefetch
from songcast.training.batches import Batch, CropSampler, passage_batches
from songcast.training.checkpoint import Checkpoint
from songcast.training.feature_cache import SongFeatures

keras = import_keras()

ALONE = Team()
VALIDATION_FRAMES = 4096
# An epoch's end asks no more of ten thousand songs than of these: so many, the beginning of each.
VALIDATION_SONGS = 256
VALIDATION_BLOCKS = 12
# The learning rate rises over this share of the steps, from FIRST_SHARE of itself, and falls
# along a cosine to LAST_SHARE.
WARMUP_SHARE, FIRST_SHARE, LAST_SHARE = 0.05, 0.05, 0.02
CLIP_NORM = 1.0

Row = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How long and how fast to learn. One step reads ``batch_size`` crops of ``crop_frames``."""

    epochs: int
    steps_per_epoch: int
    batch_size: int
    crop_frames: int
    learning_rate: float
    average_momentum: float = 0.99


def fit(
    network: Any,
    sampler: CropSampler,
    validation: Sequence[SongFeatures],
    settings: FitSettings,
    checkpoint: Checkpoint,
    on_epoch: Callable[[int, Row], None],
    on_step: Callable[[int], None] | None = None,
    team: Team = ALONE,
) -> list[Row]:
    """Train ``network`` in place; return one row per epoch.

    Rows hold ``step`` (the epoch), ``train_bits_per_sample`` and
    ``validation_bits_per_sample``. Each epoch ends in a checkpoint; started again after
    any kind of stop, training goes on from the last one and ends with the same weights as
    if it had never stopped. Of a ``team``, the first worker alone writes checkpoints, reports,
    and ends with the best weights. Raises ``ParamsError`` where every epoch diverged.
    """
    trainer = compile_trainer(network, settings, team)
    rows = checkpoint.restore(trainer)
    best = min((row["validation_bits_per_sample"] for row in rows), default=math.inf)
    asked = validation_songs(validation)[team.rank :: team.workers]
    state = np.zeros(
        (settings.batch_size // team.workers, *network.input_shape[-1][1:]), np.float32
    )
    for epoch in range(len(rows), settings.epochs):
        losses = []
        # Batch by batch, not by `fit`: TensorFlow's generator dataset sets malloc's trim threshold
        # to 128 kB, after which every large array is faulted in anew (half the speed).
        for index, (inputs, target) in enumerate(_batches(sampler, epoch, settings, team)):
            losses.append(trainer.train_on_batch([*inputs.values(), state], target))
            if on_step:
                on_step(epoch * settings.steps_per_epoch + index + 1)
        with averaged_weights(trainer):
            found = _song_bits(network, asked)
            average = network.get_weights()
        train_bits, total, songs = team.mean(np.array([np.mean(losses), np.sum(found), len(found)]))
        row = {
            "step": float(epoch),
            "train_bits_per_sample": float(train_bits),
            "validation_bits_per_sample": float(total / songs) if songs else math.inf,
        }
        rows.append(row)
        improved = row["validation_bits_per_sample"] <= best
        best = min(best, row["validation_bits_per_sample"])
        if team.rank == 0:
            checkpoint.save(trainer, rows, average if improved else None)
            on_epoch(epoch, row)
    if team.rank == 0:
        if all(math.isnan(row["validation_bits_per_sample"]) for row in rows):
            raise ParamsError("params.yaml: training diverged in every epoch; lower learning_rate")
        network.set_weights(checkpoint.best_weights())
    return rows


def compile_trainer(network: Any, settings: FitSettings, team: Team = ALONE) -> Any:
    """Return a model over the same weights whose loss is the code length in bits."""
    return averaging_trainer(
        network,
        code_length_bits,
        settings.epochs * settings.steps_per_epoch,
        settings.learning_rate,
        momentum=settings.average_momentum,
        adam=team.optimizer(keras.optimizers.Adam),
    )


def averaging_trainer(
    network: Any,
    loss: Callable[..., Any],
    steps: int,
    learning_rate: float,
    *,
    momentum: float,
    warmup_share: float = WARMUP_SHARE,
    adam: Any = keras.optimizers.Adam,
) -> Any:
    """Return a model over the weights of ``network``, which learns its first output.

    ``momentum``: of the moving average of the weights, see ``averaged_weights``.
    """
    warmup = max(round(steps * warmup_share), 1)
    schedule = keras.optimizers.schedules.CosineDecay(
        learning_rate * FIRST_SHARE,
        decay_steps=max(steps - warmup, 1),
        alpha=LAST_SHARE,
        warmup_target=learning_rate,
        warmup_steps=warmup,
    )
    optimizer = adam(schedule, global_clipnorm=CLIP_NORM, use_ema=True, ema_momentum=momentum)
    trainer = keras.Model(network.inputs, network.outputs[0], name="trainer")
    trainer.compile(optimizer=optimizer, loss=loss)
    optimizer.build(trainer.trainable_variables)
    return trainer


@contextmanager
def averaged_weights(trainer: Any) -> Iterator[None]:
    """Inside, the model has the moving average of its weights."""
    own = trainer.get_weights()
    trainer.optimizer.finalize_variable_values(trainer.trainable_variables)
    # On JAX the weights are now the averages' own buffers, which predicting would consume.
    trainer.set_weights([np.array(average) for average in trainer.get_weights()])
    try:
        yield
    finally:
        trainer.set_weights(own)


def validation_songs(songs: Sequence[SongFeatures]) -> list[SongFeatures]:
    """Return those with a validation passage; of more than ``VALIDATION_SONGS``, so many.

    They are evenly spread, the same ones at every call.
    """
    having = [song for song in songs if VALIDATION in song.splits]
    count = min(len(having), VALIDATION_SONGS)
    return [having[number * len(having) // count] for number in range(count)]


def mean_bits(network: Any, songs: Sequence[SongFeatures]) -> float:
    """Mean over songs of the code length on the beginning of their validation passages."""
    means = _song_bits(network, songs)
    return float(np.mean(means)) if means else math.inf


def _song_bits(network: Any, songs: Sequence[SongFeatures]) -> list[float]:
    return [
        float(np.mean(bits))
        for song in songs
        if (bits := _errors(network, song, VALIDATION_BLOCKS)[0]).size
    ]


def validation_measures(
    network: Any, song: SongFeatures, samples: NDArray[np.int16]
) -> dict[str, float]:
    """Code length and prediction gain (dB, all channels together) on the validation passage.

    ``samples``: (frames, channels) int16, the whole song. The experts have heard the song from
    its first frame; the network starts with the passage.
    """
    bits, errors, start = _errors(network, song, None)
    if not bits.size:
        return {"bits_per_sample": 0.0, "prediction_gain_db": 0.0}
    signal = samples[start : start + errors.shape[1]].astype(np.float64)
    with np.errstate(divide="ignore"):
        gain = 10.0 * np.log10(np.sum(signal**2) / max(float(np.sum(errors**2)), 1e-12))
    return {
        "bits_per_sample": float(np.mean(bits)),
        "prediction_gain_db": float(np.maximum(gain, -200.0)),
    }


def _errors(
    network: Any, song: SongFeatures, blocks: int | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """Bits and errors in LSB, (channels, frames) each, and the passage's first frame."""
    look_back = network.get_layer("windows").look_back
    bits, errors = [], []
    state = np.zeros((song.channels, *network.input_shape[-1][1:]), np.float32)
    batches = passage_batches(song, VALIDATION, VALIDATION_FRAMES, look_back)
    for inputs, target in islice(batches, blocks):
        mixture, state = network.predict_on_batch([*inputs.values(), state])
        # All positions are relative to the combined mean, the sample's too.
        found = absolute_mixture(np.asarray(mixture), 1.0 / target[..., 1])
        samples = (target[..., 0] / target[..., 1]).astype(np.float64)
        bits.append(found.bits(samples))
        errors.append(samples - found.mean)
    start = -(-song.splits.get(VALIDATION, (0, 0))[0] // song.step_frames) * song.step_frames
    if not bits:
        return np.empty((song.channels, 0)), np.empty((song.channels, 0)), start
    return np.concatenate(bits, axis=1), np.concatenate(errors, axis=1), start


def _batches(
    sampler: CropSampler, epoch: int, settings: FitSettings, team: Team
) -> Iterator[Batch]:
    """Yield the batches of an epoch; a thread reads the next one while the last is learned."""
    draw = partial(sampler.batch, epoch, rank=team.rank, workers=team.workers)
    for _, batch in prefetch(draw, range(settings.steps_per_epoch)):
        yield batch

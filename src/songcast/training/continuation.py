"""Training of the level model: songs cut at many places, and the levels that follow.

The levels of a song are a small table, so thousands of cuts fit in memory. The passages of a cut
are retrieved from the whole part of the song that may be used, except around the seconds that
are predicted: a short song then has enough of them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from songcast.audio.conversion import resampled
from songcast.audio.decoders import BLOCK_FRAMES
from songcast.config import ContinuationParams
from songcast.continuation.level_model import (
    FEATURES,
    NEGATIVE_SLOPE,
    PAST_SECONDS,
    SMOOTH,
    SOFTNESS_DB,
    SOURCES,
    STEP,
    UNITS,
    Present,
    blended,
    correctable,
    model_inputs,
)
from songcast.continuation.levels import band_levels, window_frames
from songcast.continuation.retrieval import Retrieval, mono
from songcast.data.corpus import PreparedSong
from songcast.distributed.engine import each_in_threads
from songcast.forecasting.distribution import to_int16
from songcast.forecasting.forecaster import prefetch

F32 = NDArray[np.float32]
Row = dict[str, float]

# The predicted seconds after a cut: drawn from these, or up to the end of a shorter song.
FUTURE_SECONDS = (1.5, 3.0, 6.0, 10.0)
EARLIEST_SECONDS, LATEST_SECONDS = 1.5, 0.7
# Speed, gain and spread of the augmented copies of a song, see ``augment``.
AUGMENTATIONS = ((0.76, 0.25, 0.0), (1.34, 0.7, 0.3), (0.92, 0.06, -0.2))
# At most this much of a song is cut, from its beginning: a song costs the same however long it is.
LONGEST_SECONDS = 90
# Share of the cuts whose passages are moved towards the truth, as in music that repeats exactly,
# and the mean time in which they leave it.
NEARER_SHARE, NEARER_SECONDS = 0.5, 5.0
# Random bands of a cut in a batch.
BATCH_BANDS = 24
AVERAGE_MOMENTUM, CLIP_NORM = 0.97, 1.0
TRAIN_ERROR, BLEND_ERROR = "train_level_error_db", "blend_level_error_db"


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A song cut at hop ``hop`` of ``table`` (hops, bands), its levels in dB.

    ``places``: hop and distance of each retrieved place. ``stop``: the future is predicted up to
    this hop.
    """

    table: F32
    hop: int
    places: tuple[tuple[int, float], ...]
    stop: int
    hops_per_second: float

    def arrays(
        self,
        nearer: np.random.Generator | None,
        passages: int | None = None,
        softness_db: tuple[float, float] = SOFTNESS_DB,
    ) -> tuple[F32, F32, F32, float] | None:
        """Return features, sources, true levels relative to the reference, and the least distance.

        None if the future is too short. ``nearer``: draws how much nearer to the truth the
        passages are moved, if at all. ``passages``: so many of the best ones are read (all).
        """
        hops, places = self.stop - self.hop, self.places[:passages]
        count = min(round(PAST_SECONDS * self.hops_per_second), self.hop - 1)
        past = self._rows(self.hop - 1 - count, self.hop - 1)
        before = np.stack([self._rows(hop - 1 - count, hop - 1) for hop, _ in places])
        # Up to 14 MB: changed in place below.
        after = np.empty((len(places), hops + 2 * SMOOTH, self.table.shape[1]), np.float32)
        for rows, (hop, _) in zip(after, places, strict=True):
            rows[:] = self._passage(hop, hops)
        distances = np.array([distance for _, distance in places], np.float32)
        if nearer is not None and nearer.random() < NEARER_SHARE:
            share = float(nearer.random())
            time = np.arange(-SMOOTH, hops + SMOOTH) / self.hops_per_second
            left = 1.0 - (1.0 - share) * np.exp(
                -np.maximum(time, 0.0) / nearer.exponential(NEARER_SECONDS)
            )
            truth = self._rows(self.hop - SMOOTH, self.stop + SMOOTH)
            after -= truth
            after *= left[:, None].astype(np.float32)
            after += truth
            before = past + np.float32(share) * (before - past)
            distances = distances * np.float32(share)
        known = ~np.isnan(after[:, SMOOTH : SMOOTH + hops, 0]).all(axis=0)
        hops = (hops if known.all() else int(np.argmin(known))) // STEP * STEP
        if hops == 0:
            return None
        present = Present.of(past, before, distances, self.hops_per_second)
        after = after[:, : hops + 2 * SMOOTH]
        features, sources = model_inputs(present, after, 0, self.hops_per_second, softness_db)
        true = self.table[self.hop : self.hop + hops] - present.reference
        return features, sources, true, float(distances.min())

    def _passage(self, hop: int, hops: int) -> F32:
        """Return the levels of the passage from SMOOTH hops before ``hop`` on; NaN after its end.

        A passage before the cut ends at the cut.
        """
        rows = self._rows(hop - SMOOTH, hop + hops + SMOOTH)
        last = self.hop - 1 if hop < self.hop else len(self.table)
        rows[max(last - hop + SMOOTH, 0) :] = np.nan
        return rows

    def _rows(self, start: int, stop: int) -> F32:
        return self.table[np.clip(np.arange(start, stop), 0, len(self.table) - 1)]


def make_cuts(
    songs: Sequence[tuple[PreparedSong, int]],
    count: int,
    passages: int,
    seed: int,
) -> list[Cut]:
    """Return about ``count`` cuts of the songs and of augmented copies of them.

    ``songs``: each song with the number of its frames that may be used. Songs of less than two
    seconds have no cuts.
    """
    share = max(count // max(len(songs) * (1 + len(AUGMENTATIONS)), 1), 1)

    def work(job: tuple[int, PreparedSong, int]) -> list[Cut]:
        index, song, frames = job
        samples = song.samples[: min(frames, LONGEST_SECONDS * song.sample_rate_hz)]
        rng = np.random.default_rng([seed, index])
        cuts = song_cuts(samples, song.sample_rate_hz, share, passages, rng)
        for augmentation in AUGMENTATIONS if cuts else ():
            cuts += song_cuts(
                augment(samples, song.sample_rate_hz, *augmentation),
                *(song.sample_rate_hz, share, passages, rng),
            )
        return cuts

    jobs = [(i, *entry) for i, entry in enumerate(songs)]
    return [cut for part in each_in_threads("local", work, jobs) for cut in part]


def augment(
    samples: NDArray[np.int16], sample_rate_hz: int, speed: float, gain: float, spread: float
) -> NDArray[np.int16]:
    """Return a copy of ``samples`` (frames, channels) int16, at the same rate.

    ``speed``: 1 leaves it as it is. ``gain``: factor on the amplitude. ``spread``: share of the
    other channel that each of two channels gets, after they are swapped.
    """

    def loud() -> Iterator[NDArray[np.int16]]:
        for start in range(0, len(samples), BLOCK_FRAMES):
            mixed = samples[start : start + BLOCK_FRAMES].astype(np.float64)
            if samples.shape[1] == 2:
                mixed = mixed[:, ::-1] + spread * mixed
            yield to_int16(gain * mixed)

    rate_hz = round(sample_rate_hz / speed)
    blocks = resampled(loud(), sample_rate_hz, rate_hz, samples.shape[1])
    return np.concatenate(list(blocks))[: len(samples) * rate_hz // sample_rate_hz]


def song_cuts(
    samples: NDArray[np.int16],
    sample_rate_hz: int,
    count: int,
    passages: int,
    rng: np.random.Generator,
) -> list[Cut]:
    """Return up to ``count`` cuts of ``samples`` (frames, channels) int16 at random places."""
    hop = window_frames(sample_rate_hz) // 2
    first, last = EARLIEST_SECONDS * sample_rate_hz, len(samples) - LATEST_SECONDS * sample_rate_hz
    if last <= first:
        return []
    retrieval = Retrieval(samples, sample_rate_hz)
    table = band_levels(mono(samples), sample_rate_hz)
    cuts = []
    for frame in rng.uniform(first, last, count):
        at = int(frame) // hop
        stop = min(at + round(rng.choice(FUTURE_SECONDS) * sample_rate_hz / hop), len(table))
        found = retrieval.find(at * hop, passages, until=stop * hop)
        places = tuple((round(place.frame / hop), place.distance_db) for place in found)
        if places:
            hops_per_second = sample_rate_hz / hop
            cuts.append(
                Cut(table=table, hop=at, places=places, stop=stop, hops_per_second=hops_per_second)
            )
    return cuts


def hop_weights(hops: int, hops_per_second: float) -> F32:
    """Return the weight of each hop in the loss: every factor in time counts about the same."""
    seconds = (np.arange(hops) + 0.5) / hops_per_second
    return np.asarray(1.0 / (seconds + 0.1), np.float32)


def build_network(units: int = UNITS) -> Any:
    """Return the untrained Keras model: (batch, steps, FEATURES) -> corrections; zero at first."""
    import keras

    features = keras.Input((None, FEATURES), name="features")
    x = keras.layers.LSTM(units, return_sequences=True, name="lstm")(features)
    x = keras.layers.Concatenate()([x, features])
    x = keras.layers.Dense(units, name="head")(x)
    x = keras.layers.LeakyReLU(negative_slope=NEGATIVE_SLOPE)(x)
    corrections = keras.layers.Dense(SOURCES + 1, kernel_initializer="zeros", name="out")(x)
    return keras.Model(features, corrections, name="levels")


# The arrays of the network, by layer, in the order of Keras.
LAYERS = {
    "lstm": ("lstm_kernel", "lstm_recurrent", "lstm_bias"),
    "head": ("head_kernel", "head_bias"),
    "out": ("out_kernel", "out_bias"),
}


def network_arrays(network: Any) -> dict[str, F32]:
    """Return the weights of the Keras model as ``LevelNetwork`` takes them."""
    return {
        name: np.asarray(weight, np.float32)
        for layer, names in LAYERS.items()
        for name, weight in zip(names, network.get_layer(layer).get_weights(), strict=True)
    }


def fit_levels(
    cuts: Sequence[Cut],
    arrays: Mapping[str, F32],
    params: ContinuationParams,
    on_epoch: Callable[[int, Row], None],
    on_step: Callable[[int], None],
) -> tuple[dict[str, F32], list[Row]]:
    """Return the arrays of a ``LevelNetwork`` and one row per epoch: errors in dB.

    Training starts from ``arrays``, and keeps their ``blend``. The new weights are a moving average
    over the last steps (Polyak & Juditsky, 1992).
    """
    import keras

    keras.utils.set_random_seed(params.seed)
    if not cuts:
        return dict(arrays), []
    network = build_network(len(arrays["lstm_recurrent"]))
    for layer, names in LAYERS.items():
        network.get_layer(layer).set_weights([arrays[name] for name in names])
    corrected = keras.Input((None, STEP, SOURCES + 1), name="correctable")
    added = keras.ops.sum(keras.ops.expand_dims(network.output, 2) * corrected, axis=-1)
    trainer = keras.Model([network.input, corrected], added)
    steps = params.steps_per_epoch
    decay = keras.optimizers.schedules.CosineDecay(params.learning_rate, params.epochs * steps)
    optimizer = keras.optimizers.Adam(
        decay, global_clipnorm=CLIP_NORM, use_ema=True, ema_momentum=AVERAGE_MOMENTUM
    )

    def loss(target: Any, output: Any) -> Any:
        weights = target[..., 1]
        absolute = keras.ops.sum(weights * keras.ops.abs(target[..., 0] - output))
        return absolute / keras.ops.sum(weights)

    trainer.compile(optimizer=optimizer, loss=loss)
    batches = Batches(cuts, arrays["blend"], params.batch_size, params.seed)
    rows = []
    for epoch in range(params.epochs):
        errors, plain = [], []
        numbers = range(epoch * steps, (epoch + 1) * steps)
        for number, (inputs, target) in prefetch(batches.batch, numbers):
            errors.append(float(trainer.train_on_batch(inputs, target)))
            residual, weights = target[..., 0], target[..., 1]
            plain.append(float(np.sum(weights * np.abs(residual)) / np.sum(weights)))
            on_step(number + 1)
        row = {"step": float(epoch)}
        row |= {TRAIN_ERROR: float(np.mean(errors)), BLEND_ERROR: float(np.mean(plain))}
        rows.append(row)
        on_epoch(epoch, row)
    optimizer.finalize_variable_values(trainer.trainable_variables)
    return {"blend": arrays["blend"], **network_arrays(network)}, rows


@dataclass(frozen=True)
class Batches:
    """Random cuts as inputs of the trainer; the target is what the blend leaves."""

    cuts: Sequence[Cut]
    blend: F32
    size: int
    seed: int

    def batch(self, number: int) -> tuple[list[F32], F32]:
        """Return batch ``number``: features and sources, and residuals with their weights."""
        parts = list(self._parts(np.random.default_rng([self.seed, number])))
        steps = max(len(features) for features, _, _ in parts)

        def stacked(arrays: Sequence[F32], length: int) -> F32:
            bands, width = arrays[0].shape[1:]
            padded = np.zeros((len(arrays), bands, length, width), np.float32)
            for rows, values in zip(padded, arrays, strict=True):
                rows[:, : len(values)] = values.swapaxes(0, 1)
            return padded.reshape(-1, length, width)

        lengths = steps, STEP * steps, STEP * steps
        features, sources, target = map(stacked, zip(*parts, strict=True), lengths)
        shape = (len(features), steps, STEP)
        return [features, sources.reshape(*shape, SOURCES + 1)], target.reshape(*shape, 2)

    def _parts(self, rng: np.random.Generator) -> Iterator[tuple[F32, F32, F32]]:
        left = self.size
        while left:
            cut = self.cuts[int(rng.integers(len(self.cuts)))]
            made = cut.arrays(rng)
            if made is None:
                continue
            features, sources, true, distance_db = made
            bands = rng.permutation(true.shape[1])[:BATCH_BANDS]
            residual = true - blended(self.blend, sources, 0, cut.hops_per_second, distance_db)
            weights = hop_weights(len(true), cut.hops_per_second)[:, None]
            target = np.stack([residual, np.broadcast_to(weights, residual.shape)], axis=-1)
            multiplied = correctable(sources[:, bands])
            yield features[:, bands], multiplied, target[:, bands]
            left -= 1

"""Training of the level model: songs cut at many places, and the levels that follow.

The levels of a song are a small table, so thousands of cuts fit in memory. The passages of a cut
are retrieved from the whole part of the song that may be used, except around the seconds that
are predicted: a short song then has enough of them.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from songcast.continuation.level_model import (
    BASIS,
    FEATURES,
    FOLLOWED_SOURCES,
    OFFSET_DB,
    PAST_SECONDS,
    SMOOTH,
    SOURCES,
    STEP,
    Present,
    basis,
    blended,
    model_inputs,
)
from songcast.continuation.levels import band_levels, window_frames
from songcast.continuation.retrieval import Retrieval
from songcast.continuation.settings import LevelSettings
from songcast.data.augmentation import AUGMENTATIONS, augment
from songcast.data.corpus import PreparedSong
from songcast.forecasting.forecaster import prefetch

F32 = NDArray[np.float32]
Row = dict[str, float]

# The predicted seconds after a cut: drawn from these, or up to the end of a shorter song.
FUTURE_SECONDS = (1.5, 3.0, 6.0, 10.0)
EARLIEST_SECONDS, LATEST_SECONDS = 1.5, 0.7
# Share of the cuts whose passages are moved towards the truth, as in music that repeats exactly,
# and the mean time in which they leave it.
NEARER_SHARE, NEARER_SECONDS = 0.3, 5.0
# Random bands of a cut in a batch.
BATCH_BANDS = 24
# Random cuts to which the blend is fitted, iterations, and the ridge penalty.
BLEND_CUTS, BLEND_ITERATIONS, BLEND_PENALTY = 200, 8, 30.0
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

    def arrays(self, nearer: np.random.Generator | None) -> tuple[F32, F32, F32] | None:
        """Return features, sources and true levels relative to the reference; None if too short.

        ``nearer``: draws how much nearer to the truth the passages are moved, if at all.
        """
        hops = self.stop - self.hop
        count = min(round(PAST_SECONDS * self.hops_per_second), self.hop - 1)
        past = self._rows(self.hop - 1 - count, self.hop - 1)
        before = np.stack([self._rows(hop - 1 - count, hop - 1) for hop, _ in self.places])
        after = np.stack([self._passage(hop, hops) for hop, _ in self.places])
        distances = np.array([distance for _, distance in self.places], np.float32)
        if nearer is not None and nearer.random() < NEARER_SHARE:
            share = float(nearer.random())
            time = np.arange(-SMOOTH, hops + SMOOTH) / self.hops_per_second
            left = 1.0 - (1.0 - share) * np.exp(
                -np.maximum(time, 0.0) / nearer.exponential(NEARER_SECONDS)
            )
            truth = self._rows(self.hop - SMOOTH, self.stop + SMOOTH)
            after = truth + np.float32(1) * (after - truth) * left[:, None].astype(np.float32)
            before = past + np.float32(share) * (before - past)
            distances = distances * np.float32(share)
        known = ~np.isnan(after[:, SMOOTH : SMOOTH + hops, 0]).all(axis=0)
        hops = (hops if known.all() else int(np.argmin(known))) // STEP * STEP
        if hops == 0:
            return None
        present = Present.of(past, before, distances, self.hops_per_second)
        after = after[:, : hops + 2 * SMOOTH]
        features, sources = model_inputs(present, after, 0, self.hops_per_second)
        return features, sources, self.table[self.hop : self.hop + hops] - present.reference

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
    threads: int,
) -> list[Cut]:
    """Return about ``count`` cuts of the songs and of augmented copies of them.

    ``songs``: each song with the number of its frames that may be used. Songs of less than two
    seconds have no cuts.
    """
    share = max(count // max(len(songs) * (1 + len(AUGMENTATIONS)), 1), 1)

    def work(job: tuple[int, PreparedSong, int]) -> list[Cut]:
        index, song, frames = job
        samples = song.samples[:frames]
        rng = np.random.default_rng([seed, index])
        cuts = song_cuts(samples, song.sample_rate_hz, share, passages, rng)
        for augmentation in AUGMENTATIONS if cuts else ():
            copy = augment(samples, song.sample_rate_hz, augmentation)
            cuts += song_cuts(copy, song.sample_rate_hz, share, passages, rng)
        return cuts

    jobs = [(i, *entry) for i, entry in enumerate(songs)]
    with ThreadPoolExecutor(threads) as pool:
        return [cut for part in pool.map(work, jobs) for cut in part]


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
    mono = samples.astype(np.float64).mean(axis=1)
    retrieval = Retrieval(mono, sample_rate_hz)
    table = band_levels(mono, sample_rate_hz)
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


def fit_blend(cuts: Sequence[Cut], rng: np.random.Generator) -> tuple[F32, F32]:
    """Return the weights of the blend with the least absolute error, and that error over time.

    (SOURCES, BASIS) and (BASIS,) float32; by iteratively reweighted least squares.
    """
    rows, targets, weights, bases = [], [], [], []
    for index in rng.choice(len(cuts), min(len(cuts), BLEND_CUTS), replace=False):
        cut = cuts[index]
        made = cut.arrays(rng)
        if made is None:
            continue
        _, sources, true = made
        picked = np.unique(np.geomspace(1, len(true), 48).astype(int) - 1)
        bands = rng.choice(true.shape[1], min(16, true.shape[1]), replace=False)
        functions = basis(0, len(true), cut.hops_per_second)[picked]
        part = sources[np.ix_(picked, bands)]
        products = part[:, :, :, None] * functions[:, None, None, :]
        rows.append(products.reshape(-1, SOURCES * BASIS))
        targets.append(true[np.ix_(picked, bands)].ravel())
        weights.append(
            np.repeat(
                hop_weights(len(true), cut.hops_per_second)[picked]
                * np.gradient(picked.astype(float)),
                len(bands),
            )
        )
        bases.append(np.repeat(functions, len(bands), axis=0))
    x, y = np.concatenate(rows).astype(np.float64), np.concatenate(targets)
    weight, functions = np.concatenate(weights), np.concatenate(bases).astype(np.float64)
    penalty = BLEND_PENALTY * np.mean(weight) * np.eye(x.shape[1])
    solution = np.zeros(x.shape[1])
    for _ in range(BLEND_ITERATIONS):
        w = weight / np.maximum(np.abs(y - x @ solution), 0.5)
        weighted = x * w[:, None]
        solution = np.linalg.solve(weighted.T @ x + penalty, weighted.T @ y)
    error = np.abs(y - x @ solution)
    spread = np.linalg.lstsq(functions, error, rcond=None)[0]
    return solution.reshape(SOURCES, BASIS).astype(np.float32), spread.astype(np.float32)


def hop_weights(hops: int, hops_per_second: float) -> F32:
    """Return the weight of each hop in the loss: every factor in time counts about the same."""
    seconds = (np.arange(hops) + 0.5) / hops_per_second
    return np.asarray(1.0 / (seconds + 0.1), np.float32)


def build_network(settings: LevelSettings) -> Any:
    """Return the untrained Keras model: (batch, steps, FEATURES) -> corrections; zero at first."""
    import keras

    features = keras.Input((None, FEATURES), name="features")
    x = keras.layers.LSTM(settings.units, return_sequences=True, name="lstm")(features)
    x = keras.layers.Concatenate()([x, features])
    x = keras.layers.Dense(settings.head_units, name="head")(x)
    x = keras.layers.LeakyReLU(negative_slope=settings.negative_slope)(x)
    corrections = keras.layers.Dense(SOURCES + 1, kernel_initializer="zeros", name="out")(x)
    return keras.Model(features, corrections, name="levels")


def network_arrays(network: Any) -> dict[str, F32]:
    """Return the weights of the Keras model as ``LevelNetwork`` takes them."""
    names = {
        "lstm": ("lstm_kernel", "lstm_recurrent", "lstm_bias"),
        "head": ("head_kernel", "head_bias"),
        "out": ("out_kernel", "out_bias"),
    }
    return {
        name: np.asarray(weight, np.float32)
        for layer, own in names.items()
        for name, weight in zip(own, network.get_layer(layer).get_weights(), strict=True)
    }


def fit_levels(
    cuts: Sequence[Cut],
    settings: LevelSettings,
    *,
    epochs: int,
    steps_per_epoch: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    on_epoch: Callable[[int, Row], None],
    on_step: Callable[[int], None],
) -> tuple[dict[str, F32], list[Row]]:
    """Return the arrays of a ``LevelNetwork`` and one row per epoch: errors in dB.

    The weights are a moving average over the last steps (Polyak & Juditsky, 1992). Without
    ``cuts`` the model keeps the levels of the passage that it follows.
    """
    import keras

    keras.utils.set_random_seed(seed)
    if not cuts:
        blend = np.zeros((SOURCES, BASIS), np.float32)
        blend[FOLLOWED_SOURCES, 0] = 1.0
        spread = np.zeros(BASIS, np.float32)
        return {**network_arrays(build_network(settings)), "blend": blend, "spread_db": spread}, []
    blend, spread = fit_blend(cuts, np.random.default_rng(seed))
    network = build_network(settings)
    sources = keras.Input((None, STEP, SOURCES), name="sources")
    corrections = keras.ops.expand_dims(network.output, 2)
    added = keras.ops.sum(corrections[..., :-1] * sources, axis=-1)
    trainer = keras.Model([network.input, sources], added + OFFSET_DB * corrections[..., -1])
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, epochs * steps_per_epoch)
    optimizer = keras.optimizers.Adam(
        schedule, global_clipnorm=CLIP_NORM, use_ema=True, ema_momentum=AVERAGE_MOMENTUM
    )

    def loss(target: Any, output: Any) -> Any:
        weights = target[..., 1]
        absolute = keras.ops.sum(weights * keras.ops.abs(target[..., 0] - output))
        return absolute / keras.ops.sum(weights)

    trainer.compile(optimizer=optimizer, loss=loss)
    batches = Batches(cuts, blend, batch_size, seed)
    rows = []
    for epoch in range(epochs):
        errors, plain = [], []
        numbers = range(epoch * steps_per_epoch, (epoch + 1) * steps_per_epoch)
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
    return {**network_arrays(network), "blend": blend, "spread_db": spread}, rows


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

        def padded(values: F32, length: int) -> F32:
            return np.pad(values, ((0, length - len(values)), *((0, 0),) * (values.ndim - 1)))

        stacked = [
            np.concatenate([padded(part[i], steps * n).swapaxes(0, 1) for part in parts])
            for i, n in ((0, 1), (1, STEP), (2, STEP))
        ]
        features, sources, target = stacked
        shape = (len(features), steps, STEP)
        return [features, sources.reshape(*shape, SOURCES)], target.reshape(*shape, 2)

    def _parts(self, rng: np.random.Generator) -> Iterator[tuple[F32, F32, F32]]:
        left = self.size
        while left:
            cut = self.cuts[int(rng.integers(len(self.cuts)))]
            made = cut.arrays(rng)
            if made is None:
                continue
            features, sources, true = made
            bands = rng.permutation(true.shape[1])[:BATCH_BANDS]
            residual = true - blended(self.blend, sources, 0, cut.hops_per_second)
            weights = hop_weights(len(true), cut.hops_per_second)[:, None]
            target = np.stack([residual, np.broadcast_to(weights, residual.shape)], axis=-1)
            yield features[:, bands], sources[:, bands], target[:, bands]
            left -= 1

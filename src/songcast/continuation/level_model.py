"""The level model: predicts the band levels of the next seconds.

Its inputs are the recent levels of the song, and the levels of the most similar passages before
and after their matching points. Simple predictions (``SOURCES``) are blended linearly; an LSTM with
a LeakyReLU head corrects the weights of the blend for each band and step. The weights of the
network are the same for all bands, and it sees differences of levels only, so it does not depend
on loudness or on the number of bands. With zero output, the model is the blend.

This module runs the network in NumPy; ``songcast.training.continuation`` trains it in Keras.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]

# Hops per step of the LSTM.
STEP = 8
# Smooth levels are means over so many hops before and after.
SMOOTH = 8
PAST_SECONDS = 3.0
# The present level and how much the song differs from a passage are means over these times.
PRESENT_SECONDS = (0.025, 0.1, 0.5)
# A passage has the weight exp(-distance / softness) in a mean of passages, in each band: there is
# a mean of few passages and one of many.
SOFTNESS_DB = (0.5, 2.5)
# The weights of the blend are sums of a constant and of exponentials with these time constants,
# for an exact match, and of the same for each DISTANCE_DB of the nearest passage.
DECAY_SECONDS = (0.1, 0.5, 2.5)
DISTANCE_DB, MOST_DISTANCES = 3.0, 2.0
BASIS = 1 + len(DECAY_SECONDS)
# Fine structure and smooth part of the followed passage and of both means of passages; the levels
# of the song over PRESENT_SECONDS; song minus passages over the same times.
SOURCES = 6 + 2 * len(PRESENT_SECONDS)
MEAN_SOURCES = [2, 3]
PASSAGES, UNITS, NEGATIVE_SLOPE = 64, 48, 0.1
# ``blend`` and the arrays of the network, trained on many songs, and ``linear_blend``: weights of
# the baseline, whose means are of 8 passages without weights. Written by
# ``benchmarks/continuation.py --fit``; docs/model.md names the songs.
PRETRAINED = Path(__file__).with_name("pretrained.npz")
# Sources, sizes and neighbours of a band, functions of time, and the distance of the best match.
NEIGHBOURS = [3, 7, 10]
FEATURES = SOURCES + 6 + len(NEIGHBOURS) + BASIS + 1
# The network's own level, beside the corrections of the weights, in dB.
OFFSET_DB = 3.0


@lru_cache(maxsize=1)
def pretrained() -> dict[str, F32]:
    """Return the arrays of ``PRETRAINED``."""
    with np.load(PRETRAINED) as arrays:
        return {name: array.astype(np.float32) for name, array in arrays.items()}


@dataclass(frozen=True, kw_only=True)
class Present:
    """What is known at the end of the song, in dB; (bands,) or (passages, bands) float32.

    ``reference``: mean level over ``PAST_SECONDS``; all other levels are relative to it.
    ``recent`` (times, bands): over each of ``PRESENT_SECONDS``. ``deviation``: mean absolute
    difference from it. ``offsets`` (times, passages, bands): song minus passage. ``errors``: mean
    absolute difference of song and passage over ``PAST_SECONDS``. ``distances_db`` (passages,): of
    the matches.
    """

    reference: F32
    recent: F32
    deviation: F32
    offsets: F32
    errors: F32
    distances_db: F32

    @classmethod
    def of(cls, past: F32, passages: F32, distances_db: F32, hops_per_second: float) -> "Present":
        """Return it for the levels ``past`` (hops, bands) and those of the passages' past."""
        counts = [max(round(seconds * hops_per_second), 1) for seconds in PRESENT_SECONDS]
        reference = past.mean(axis=0)
        difference = past - passages
        return cls(
            reference=reference,
            recent=np.stack([past[-n:].mean(axis=0) for n in counts]) - reference,
            deviation=np.abs(past - reference).mean(axis=0),
            offsets=np.stack([difference[:, -n:].mean(axis=1) for n in counts]),
            errors=np.abs(difference).mean(axis=1),
            distances_db=distances_db,
        )

    def weights(self, softness_db: float) -> F32:
        """Return the weight of each passage in each band: (passages, bands), at most 1.

        It falls with the error in the band and its neighbours, and with that in all bands.
        """
        near = _neighbours(self.errors[:, :, None])[:, :, 0]
        distance = 0.5 * (near + self.errors.mean(axis=1, keepdims=True))
        return np.asarray(np.exp((distance.min(axis=0) - distance) / np.float32(softness_db)))


def model_inputs(
    present: Present,
    passages: F32,
    first: int,
    hops_per_second: float,
    softness_db: tuple[float, float] = SOFTNESS_DB,
) -> tuple[F32, F32]:
    """Return features (steps, bands, FEATURES) and sources (hops, bands, SOURCES) of some hops.

    ``passages``: (passages, SMOOTH + hops + SMOOTH, bands) levels, NaN where a passage has
    ended; the first passage without NaN is the one that is followed. ``first``: the number of
    hops between the end of the song and the first of these; all are multiples of ``STEP``.
    """
    known = ~np.isnan(passages[:, :, 0])
    filled = np.where(known[:, :, None], passages, np.float32(0.0))
    present_passages = known.T.astype(np.float32)
    hops, bands = passages.shape[1] - 2 * SMOOTH, len(present.reference)
    inner = slice(SMOOTH, SMOOTH + hops)
    weights = [present.weights(softness) for softness in softness_db]
    totals = [np.maximum(present_passages @ weight, 1e-9) for weight in weights]

    def mean(values: F32, number: int) -> F32:
        return np.asarray(np.einsum("ktb,kb->tb", values, weights[number]) / totals[number])

    def mean_known(values: F32) -> F32:
        return np.asarray((present_passages @ (values * weights[0]) / totals[0])[inner])

    sources = np.empty((hops, bands, SOURCES), np.float32)
    followed = np.take_along_axis(passages, np.argmax(known, axis=0)[None, :, None], 0)[0]
    means = [mean(filled, number) for number in range(len(weights))]
    filled -= means[0]
    np.abs(filled, out=filled)
    filled *= known[:, :, None]
    spread = mean(filled, 0)[inner]
    for number, levels in enumerate((followed, *means)):
        levels[~np.any(known, axis=0)] = np.nan
        levels = _filled(levels)
        smooth = _smooth(levels)
        sources[:, :, 2 * number] = levels[inner] - smooth
        sources[:, :, 2 * number + 1] = smooth - present.reference
    for number, (recent, offsets) in enumerate(zip(present.recent, present.offsets, strict=True)):
        sources[:, :, 6 + number] = recent
        sources[:, :, 6 + len(PRESENT_SECONDS) + number] = mean_known(offsets)

    def steps(values: F32) -> F32:
        return np.asarray(values.reshape(hops // STEP, STEP, *values.shape[1:]).mean(axis=1))

    # Features of the band itself (levels, then sizes) and of its neighbours.
    own = np.empty((hops, bands, SOURCES + 6), np.float32)
    own[:, :, :SOURCES] = sources / 10.0
    own[:, :, SOURCES : SOURCES + 3] = np.abs(sources[:, :, [0, 2, 4]]) / 5.0
    own[:, :, SOURCES + 3] = spread / 5.0
    own[:, :, SOURCES + 4] = present.deviation / 5.0
    own[:, :, SOURCES + 5] = mean_known(present.errors) / 5.0
    own = steps(own)
    shared = np.empty((len(own), bands, BASIS + 1), np.float32)
    shared[:, :, :BASIS] = steps(basis(first, hops, hops_per_second))[:, None]
    shared[:, :, BASIS] = _share(float(present.distances_db.min()))
    return np.concatenate([own, _neighbours(own[:, :, NEIGHBOURS]), shared], axis=2), sources


def basis(first: int, hops: int, hops_per_second: float) -> F32:
    """Return the functions of time of which the weights of the blend are sums: (hops, BASIS)."""
    seconds = (np.arange(first, first + hops) + 0.5) / hops_per_second
    decays = [np.exp(-seconds / constant) for constant in DECAY_SECONDS]
    return np.stack([np.ones(hops), *decays], axis=1).astype(np.float32)


def _filled(levels: F32) -> F32:
    """Replace NaN rows by the nearest row that is known."""
    known = np.flatnonzero(~np.isnan(levels[:, 0]))
    if not len(known):
        return np.zeros_like(levels)
    index = np.searchsorted(known, np.arange(len(levels)), side="right") - 1
    return levels[known[np.maximum(index, 0)]]


def _smooth(levels: F32) -> F32:
    """Return the mean over 2 SMOOTH + 1 hops; SMOOTH hops at each end are dropped."""
    sums = np.cumsum(np.pad(levels, ((1, 0), (0, 0))), axis=0, dtype=np.float64)
    width = 2 * SMOOTH + 1
    return ((sums[width:] - sums[:-width]) / width).astype(np.float32)


def _neighbours(values: F32) -> F32:
    """Return the mean over each band and two bands on either side."""
    padded = np.pad(values, ((0, 0), (2, 2), (0, 0)), mode="edge")
    bands = values.shape[1]
    parts = [padded[:, i : i + bands] for i in range(5)]
    return np.asarray(np.mean(parts, axis=0), np.float32)


def blended(
    blend: F32, sources: F32, first: int, hops_per_second: float, distance_db: float
) -> F32:
    """Return the linear blend (hops, bands), relative to the reference.

    ``blend``: (SOURCES, 2 BASIS) weights; ``distance_db``: of the nearest passage.
    """
    weights = blend_basis(first, len(sources), hops_per_second, distance_db) @ blend.T
    return np.asarray(np.einsum("tbs,ts->tb", sources, weights), np.float32)


def blend_basis(first: int, hops: int, hops_per_second: float, distance_db: float) -> F32:
    """Return the functions of time and distance of which the weights are sums, (hops, 2 BASIS)."""
    functions = basis(first, hops, hops_per_second)
    return np.concatenate([functions, _share(distance_db) * functions], axis=1)


def _share(distance_db: float) -> np.float32:
    return np.float32(min(distance_db / DISTANCE_DB, MOST_DISTANCES))


class LevelNetwork:
    """The linear blend and the network in NumPy; ``arrays``: ``blend`` and the Keras network's.

    ``softness_db``: of the two means of passages.
    """

    def __init__(
        self, arrays: Mapping[str, NDArray[Any]], softness_db: tuple[float, float] = SOFTNESS_DB
    ) -> None:
        self._arrays = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
        self._softness_db = softness_db

    def run(self, features: F32, state: F32) -> F32:
        """Return the corrections (steps, bands, SOURCES + 1); ``state`` changes in place.

        ``state``: (2, bands, units), zero at the end of the song.
        """
        a = self._arrays
        units = state.shape[2]
        inputs = features @ a["lstm_kernel"] + a["lstm_bias"]
        outputs = np.empty((*features.shape[:2], units), np.float32)
        h, c = state
        for step in range(len(features)):
            gates = inputs[step] + h @ a["lstm_recurrent"]
            i, f, g, o = (gates[:, n * units : (n + 1) * units] for n in range(4))
            c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
            h = _sigmoid(o) * np.tanh(c)
            outputs[step] = h
        state[0], state[1] = h, c
        hidden = np.concatenate([outputs, features], axis=2) @ a["head_kernel"] + a["head_bias"]
        hidden = np.where(hidden > 0, hidden, np.float32(NEGATIVE_SLOPE) * hidden)
        return np.asarray(hidden @ a["out_kernel"] + a["out_bias"], np.float32)

    def new_state(self, bands: int) -> F32:
        """Return the state at the end of the song."""
        return np.zeros((2, bands, self._arrays["lstm_recurrent"].shape[0]), np.float32)

    def predict(
        self, present: Present, passages: F32, first: int, hops_per_second: float, state: F32
    ) -> F32:
        """Return the levels in dB of the hops from ``first`` on: (hops, bands).

        ``passages``: as in ``model_inputs``.
        """
        features, sources = model_inputs(
            present, passages, first, hops_per_second, self._softness_db
        )
        distance_db = float(present.distances_db.min())
        levels = blended(self._arrays["blend"], sources, first, hops_per_second, distance_db)
        corrections = np.repeat(self.run(features, state), STEP, axis=0)
        levels += np.einsum("tbs,tbs->tb", corrections, correctable(sources))
        return levels + present.reference


def correctable(sources: F32) -> F32:
    """Return what each correction by the network multiplies: the sources and ``OFFSET_DB``."""
    return np.pad(sources, ((0, 0), (0, 0), (0, 1)), constant_values=OFFSET_DB)


def _sigmoid(x: F32) -> F32:
    return np.asarray(0.5 * np.tanh(0.5 * x) + 0.5, np.float32)

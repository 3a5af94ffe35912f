"""The level model: predicts the band levels of the next seconds.

Its inputs are the recent levels of the song, and the levels of the most similar passages before
and after their matching points. Seven simple predictions (``SOURCES``) are blended linearly; an
LSTM with a LeakyReLU head corrects the weights of the blend for each band and step. The weights
of the network are the same for all bands, and it sees differences of levels only, so it does
not depend on loudness or on the number of bands. With zero output, the model is the blend.

This module runs the network in NumPy; ``songcast.training.continuation`` trains it in Keras.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]

# Hops per step of the LSTM.
STEP = 8
# Smooth levels are means over so many hops before and after.
SMOOTH = 8
RECENT_SECONDS, SHORT_SECONDS, PAST_SECONDS = 0.1, 0.5, 3.0
# A passage has the weight exp(-distance / SOFTNESS_DB) in the mean of passages, in each band.
SOFTNESS_DB = 0.7
# The corrections by the network fade with this time constant.
FADE_SECONDS = 0.5
# The weights of the blend are sums of a constant and of exponentials with these time constants,
# for an exact match, and of the same for each DISTANCE_DB of the nearest passage.
DECAY_SECONDS = (0.1, 0.5, 2.5)
DISTANCE_DB, MOST_DISTANCES = 3.0, 2.0
BASIS = 1 + len(DECAY_SECONDS)
# The fine structure and the smooth part of the followed passage, and of the mean of passages; the
# level of the song over RECENT_SECONDS; song minus passages over RECENT_SECONDS and SHORT_SECONDS.
SOURCES = 7
MEAN_SOURCES = [2, 3]
# Fitted by ``benchmarks/continuation.py --fit`` to 160 cuts of 16 full-length songs, which
# docs/model.md names. The demo songs are too short for it.
BLEND = np.array(
    [
        [0.17, -0.02, -0.01, 0.06, -0.06, -0.00, -0.03, -0.06],
        [0.39, -0.09, -0.12, 0.02, -0.21, 0.04, 0.06, 0.03],
        [0.59, 0.04, 0.06, 0.22, 0.17, -0.02, -0.09, -0.06],
        [0.63, 0.05, 0.01, 0.12, -0.07, 0.06, 0.06, 0.04],
        [-0.07, 0.02, -0.01, 0.02, 0.12, 0.01, -0.02, -0.06],
        [-0.01, 0.08, 0.14, 0.13, -0.02, 0.06, 0.10, 0.07],
        [0.08, -0.00, 0.11, 0.12, 0.04, -0.10, 0.00, 0.01],
    ],
    np.float32,
)
# The same for the baseline ``blend``: the mean is that of 8 passages, without weights.
LINEAR_BLEND = np.array(
    [
        [0.21, -0.04, -0.05, 0.08, 0.00, 0.00, 0.00, 0.00],
        [0.14, -0.08, -0.05, 0.13, 0.00, 0.00, 0.00, 0.00],
        [0.62, 0.01, -0.00, 0.12, 0.00, 0.00, 0.00, 0.00],
        [0.44, 0.17, 0.15, 0.10, 0.00, 0.00, 0.00, 0.00],
        [0.08, 0.07, -0.01, -0.09, 0.00, 0.00, 0.00, 0.00],
        [-0.05, 0.18, 0.25, 0.21, 0.00, 0.00, 0.00, 0.00],
        [0.15, -0.10, 0.05, 0.17, 0.00, 0.00, 0.00, 0.00],
    ],
    np.float32,
)
FEATURES = 12 + 4 + BASIS
# The network's own level, beside the corrections of the weights, in dB.
OFFSET_DB = 3.0


@dataclass(frozen=True, kw_only=True)
class Present:
    """What is known at the end of the song, in dB; (bands,) or (passages, bands) float32.

    ``reference``: mean level over ``PAST_SECONDS``; all other levels are relative to it.
    ``recent``: over ``RECENT_SECONDS``. ``deviation``: mean absolute difference from it.
    ``offsets`` (2, ..): song minus passage, over the two shorter times. ``errors``: mean absolute
    difference of song and passage over the longest. ``distances_db`` (passages,): of the matches.
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
        recent, short = (
            max(round(seconds * hops_per_second), 1) for seconds in (RECENT_SECONDS, SHORT_SECONDS)
        )
        reference = past.mean(axis=0)
        difference = past - passages
        return cls(
            reference=reference,
            recent=past[-recent:].mean(axis=0) - reference,
            deviation=np.abs(past - reference).mean(axis=0),
            offsets=np.stack([difference[:, -n:].mean(axis=1) for n in (recent, short)]),
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
    softness_db: float = SOFTNESS_DB,
) -> tuple[F32, F32]:
    """Return features (steps, bands, FEATURES) and sources (hops, bands, SOURCES) of some hops.

    ``passages``: (passages, SMOOTH + hops + SMOOTH, bands) levels, NaN where a passage has
    ended; the first passage without NaN is the one that is followed. ``first``: the number of
    hops between the end of the song and the first of these; all are multiples of ``STEP``.
    """
    known = ~np.isnan(passages[:, :, 0])
    hops = passages.shape[1] - 2 * SMOOTH
    inner = slice(SMOOTH, SMOOTH + hops)
    weights = present.weights(softness_db)
    total = np.maximum(known.T.astype(np.float32) @ weights, 1e-9)

    def weighted(values: F32) -> F32:
        filled = np.where(known[:, :, None], values, 0.0)
        return np.asarray(np.einsum("ktb,kb->tb", filled, weights) / total, np.float32)

    def weighted_known(values: F32) -> F32:
        return np.asarray(known.T.astype(np.float32) @ (values * weights) / total)[inner]

    followed = _filled(np.take_along_axis(passages, np.argmax(known, axis=0)[None, :, None], 0)[0])
    average = weighted(passages)
    spread = weighted(np.abs(passages - average))[inner]
    average[~np.any(known, axis=0)] = np.nan
    average = _filled(average)
    rough, mean_rough = _smooth(followed), _smooth(average)
    sources = np.empty((hops, len(present.reference), SOURCES), np.float32)
    sources[:, :, 0] = followed[inner] - rough
    sources[:, :, 1] = rough - present.reference
    sources[:, :, 2] = average[inner] - mean_rough
    sources[:, :, 3] = mean_rough - present.reference
    sources[:, :, 4] = present.recent
    sources[:, :, 5] = weighted_known(present.offsets[0])
    sources[:, :, 6] = weighted_known(present.offsets[1])

    def steps(values: F32) -> F32:
        return np.asarray(values.reshape(hops // STEP, STEP, *values.shape[1:]).mean(axis=1))

    # Features of the band itself (levels, then sizes) and of its neighbours.
    own = np.zeros((hops, len(present.reference), 12), np.float32)
    own[:, :, :7] = sources / 10.0
    own[:, :, 7] = np.abs(sources[:, :, 0]) / 5.0
    own[:, :, 8] = np.abs(sources[:, :, 2]) / 5.0
    own[:, :, 9] = spread / 5.0
    own[:, :, 10] = present.deviation / 5.0
    own[:, :, 11] = weighted_known(present.errors) / 5.0
    own = steps(own)
    near = _neighbours(own[:, :, [1, 3, 4, 7]])
    shared = steps(basis(first, hops, hops_per_second))[:, None]
    shared = np.broadcast_to(shared, (*own.shape[:2], BASIS))
    return np.ascontiguousarray(np.concatenate([own, near, shared], axis=2)), sources


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
    share = np.float32(min(distance_db / DISTANCE_DB, MOST_DISTANCES))
    return np.concatenate([functions, share * functions], axis=1)


class LevelNetwork:
    """The network in NumPy; the arrays are those of the Keras network.

    ``blend`` and ``softness_db`` are those of the linear blend that it corrects.
    """

    def __init__(
        self,
        arrays: Mapping[str, NDArray[Any]],
        negative_slope: float,
        blend: F32 = BLEND,
        softness_db: float = SOFTNESS_DB,
    ) -> None:
        self._arrays = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
        self._slope = np.float32(negative_slope)
        self._blend, self._softness_db = blend, softness_db

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
        hidden = np.where(hidden > 0, hidden, self._slope * hidden)
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
        levels = blended(self._blend, sources, first, hops_per_second, distance_db)
        corrections = np.repeat(self.run(features, state), STEP, axis=0)
        levels += np.einsum(
            "tbs,tbs->tb", corrections, correctable(sources, first, hops_per_second)
        )
        return levels + present.reference


def correctable(sources: F32, first: int, hops_per_second: float) -> F32:
    """Return what each correction by the network multiplies, (hops, bands, SOURCES + 1).

    These are the sources and ``OFFSET_DB``, both fading over ``FADE_SECONDS``.
    """
    seconds = (np.arange(first, first + len(sources)) + 0.5) / hops_per_second
    fade = np.exp(-seconds / FADE_SECONDS).astype(np.float32)
    padded = np.pad(sources, ((0, 0), (0, 0), (0, 1)), constant_values=OFFSET_DB)
    return np.asarray(padded * fade[:, None, None])


def _sigmoid(x: F32) -> F32:
    return np.asarray(0.5 * np.tanh(0.5 * x) + 0.5, np.float32)

"""The level model: predicts the band levels of the next seconds.

Its inputs are the recent levels of the song, and the levels of the most similar passages before
and after their matching points. Eleven simple ones (``sources``) are blended linearly; an
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
# The weights of the blend are sums of a constant and of exponentials with these time constants.
DECAY_SECONDS = (0.1, 0.5, 2.5)
BASIS = 1 + len(DECAY_SECONDS)
SOURCES = 11
# Of these, the fine structure and the smooth part of the followed passage, and of their mean.
FOLLOWED_SOURCES, MEAN_SOURCES = [0, 1], [2, 3]
FEATURES = 18 + 12 + 3 + BASIS
# The network's own level, beside the corrections of the weights, in dB.
OFFSET_DB = 3.0


@dataclass(frozen=True, kw_only=True)
class Present:
    """What is known at the end of the song, in dB; (bands,) or (passages, bands) float32.

    ``reference``: mean level over ``PAST_SECONDS``; all other levels are relative to it.
    ``recent``, ``short``: over shorter times. ``deviation``: mean absolute difference from it.
    ``offsets`` (3, ..): song minus passage, over the three times. ``errors`` (2, ..): mean
    absolute difference of song and passage, over the two longer ones. ``distances_db``
    (passages,): of the matches.
    """

    reference: F32
    recent: F32
    short: F32
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
        means = [difference[:, -n:].mean(axis=1) for n in (recent, short, len(past))]
        return cls(
            reference=reference,
            recent=past[-recent:].mean(axis=0) - reference,
            short=past[-short:].mean(axis=0) - reference,
            deviation=np.abs(past - reference).mean(axis=0),
            offsets=np.stack(means),
            errors=np.stack([np.abs(difference[:, -n:]).mean(axis=1) for n in (short, len(past))]),
            distances_db=distances_db,
        )

    def with_passages(self, distances_db: F32) -> "Present":
        """Return it for other passages, which do not match the end of the song itself."""
        shape = (len(distances_db), len(self.reference))
        errors = np.broadcast_to(self.errors.mean(axis=1, keepdims=True), (2, *shape))
        changed = {"offsets": np.zeros((3, *shape), np.float32), "errors": errors}
        return Present(**{**vars(self), **changed, "distances_db": distances_db})


def model_inputs(
    present: Present, passages: F32, first: int, hops_per_second: float
) -> tuple[F32, F32]:
    """Return features (steps, bands, FEATURES) and sources (hops, bands, SOURCES) of some hops.

    ``passages``: (passages, SMOOTH + hops + SMOOTH, bands) levels, NaN where a passage has
    ended; the first passage without NaN is the one that is followed. ``first``: the number of
    hops between the end of the song and the first of these; all are multiples of ``STEP``.
    """
    present_at = ~np.isnan(passages[:, :, 0])
    hops = passages.shape[1] - 2 * SMOOTH
    inner = slice(SMOOTH, SMOOTH + hops)
    used = present_at[:, inner].astype(np.float32)[:, :, None]
    count = np.maximum(used.sum(axis=0), 1.0)
    chosen = np.argmax(present_at, axis=0)

    def of_chosen(values: F32) -> F32:
        return np.asarray(values[chosen[inner]], np.float32)

    def mean(values: F32) -> F32:
        return np.asarray(np.einsum("kb,kt->tb", values, used[:, :, 0]) / count, np.float32)

    followed = _filled(np.take_along_axis(passages, chosen[None, :, None], axis=0)[0])
    valid = present_at[:, :, None]
    total = np.where(valid, passages, 0.0).sum(axis=0)
    average = _filled(np.where(valid.any(axis=0), total, np.nan) / np.maximum(valid.sum(0), 1))
    spread = np.sqrt(np.where(valid, (passages - average) ** 2, 0.0).sum(axis=0)[inner] / count)
    rough, mean_rough = _smooth(followed), _smooth(average)
    followed, average = followed[inner], average[inner]
    sources = np.empty((hops, len(present.reference), SOURCES), np.float32)
    sources[:, :, 0] = followed - rough
    sources[:, :, 1] = rough - present.reference
    sources[:, :, 2] = average - mean_rough
    sources[:, :, 3] = mean_rough - present.reference
    sources[:, :, 4] = present.recent
    sources[:, :, 5] = present.short
    for place, index in ((6, 1), (7, 2), (10, 0)):
        sources[:, :, place] = of_chosen(present.offsets[index])
    for place, index in ((8, 1), (9, 2)):
        sources[:, :, place] = mean(present.offsets[index])

    def steps(values: F32) -> F32:
        return np.asarray(values.reshape(hops // STEP, STEP, *values.shape[1:]).mean(axis=1))

    # 18 features of the band itself: levels, then sizes.
    own = np.empty((hops, len(present.reference), 18), np.float32)
    own[:, :, 0] = sources[:, :, 1] / 10.0
    own[:, :, 1:9] = sources[:, :, 3:] / 10.0
    own[:, :, 9] = np.abs(sources[:, :, 0]) / 5.0
    own[:, :, 10] = np.abs(sources[:, :, 2]) / 5.0
    own[:, :, 11] = spread / 5.0
    own[:, :, 12] = present.deviation / 5.0
    own[:, :, 13:15] = np.stack([of_chosen(e) for e in present.errors], axis=-1) / 5.0
    own[:, :, 15:17] = np.stack([mean(e) for e in present.errors], axis=-1) / 5.0
    own[:, :, 17] = count / len(passages)
    own = steps(own)
    # Of neighbouring bands, and of all bands.
    core = own[:, :, [0, 1, 2, 9]]
    near = _neighbours(core)
    everywhere = own[:, :, [0, 1, 2, 9, 13, 14, 15, 16]].mean(axis=1, keepdims=True)
    distances = present.distances_db / 5.0
    shared = np.empty((hops, 3 + BASIS), np.float32)
    shared[:, 0] = distances[chosen[inner]]
    shared[:, 1] = distances.mean()
    shared[:, 2] = distances.min()
    shared[:, 3:] = basis(first, hops, hops_per_second)
    shape = own.shape[:2]
    features = np.concatenate(
        [
            own,
            near,
            np.broadcast_to(everywhere, (*shape, everywhere.shape[2])),
            np.broadcast_to(steps(shared)[:, None], (*shape, shared.shape[1])),
        ],
        axis=2,
    )
    return np.ascontiguousarray(features, np.float32), sources


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


def blended(blend: F32, sources: F32, first: int, hops_per_second: float) -> F32:
    """Return the linear blend (hops, bands), relative to the reference.

    ``blend``: (SOURCES, BASIS) weights.
    """
    weights = basis(first, len(sources), hops_per_second) @ blend.T
    return np.asarray(np.einsum("tbs,ts->tb", sources, weights), np.float32)


class LevelNetwork:
    """The network in NumPy; the arrays are those of the Keras network, and ``blend``."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]], negative_slope: float) -> None:
        self._arrays = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
        self._slope = np.float32(negative_slope)
        self.blend = self._arrays["blend"]
        self.spread_db = self._arrays["spread_db"]

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
        features, sources = model_inputs(present, passages, first, hops_per_second)
        levels = blended(self.blend, sources, first, hops_per_second)
        levels += corrected(self.run(features, state), sources)
        return levels + present.reference


def corrected(corrections: F32, sources: F32) -> F32:
    """Return what the corrections (steps, bands, SOURCES + 1) add to the levels, (hops, bands)."""
    each = np.repeat(corrections, STEP, axis=0)
    added = np.einsum("tbs,tbs->tb", each[:, :, :-1], sources)
    return np.asarray(added + OFFSET_DB * each[:, :, -1], np.float32)


def _sigmoid(x: F32) -> F32:
    return np.asarray(0.5 * np.tanh(0.5 * x) + 0.5, np.float32)

"""Input features of the continuation network: levels per step, and samples near each sample.

Training and sampling share these compiled functions, so that they cannot differ. Excitations are
near unit level; all features are logarithms of levels, or samples compressed by arcsinh.
"""

import math

import numpy as np
from numpy.typing import NDArray

from songcast.continuation.settings import AHEAD
from songcast.forecasting.compiled import compiled, inlined

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

# Samples per step of the slow and of the fast LSTM.
SLOW, FAST = 512, 64
QUARTERS = 4
# Quarters and edges of both rows and of the passage; its neighbours; its other row; nearness.
SLOW_FEATURES = 2 * (QUARTERS + 1) + (QUARTERS + 1) + 2 + 1 + 2
FAST_FEATURES = 6
LEVEL_FLOOR = 1e-4
# Scales log levels to a range of about one.
LEVEL_SCALE = 0.5
# Larger excitations come from a filter that does not fit, not from music.
LIMIT = 30.0


def limited(x: F64) -> F32:
    """Return excitations within +-``LIMIT``, float32, contiguous."""
    return np.ascontiguousarray(np.clip(x, -LIMIT, LIMIT), np.float32)


@inlined
def log_level(x: F32, start: int, stop: int) -> float:
    """Half the logarithm of the power of ``x`` (frames,) in [start, stop)."""
    power = 0.0
    for t in range(start, stop):
        power += x[t] * x[t]
    return LEVEL_SCALE * 0.5 * math.log(power / (stop - start) + LEVEL_FLOOR)


@inlined
def log_edge(x: F32, start: int, stop: int) -> float:
    """As ``log_level``, of the differences of neighbours: the upper half of the spectrum."""
    power = 0.0
    for t in range(start + 1, stop):
        power += (x[t] - x[t - 1]) * (x[t] - x[t - 1])
    return LEVEL_SCALE * 0.5 * math.log(power / (stop - start) + LEVEL_FLOOR)


@inlined
def slow_features(own: F32, passage: F32, t: int, nearness: F32, out: F32) -> None:
    """Fill ``out`` (rows, SLOW_FEATURES) for the step that begins at frame ``t``.

    ``own``, ``passage`` (rows, frames): of ``own`` only frames < t are read, of ``passage`` up
    to two steps beyond. ``nearness`` (2,): 1 if a passage was retrieved, and its distance in 10 dB.
    """
    rows = len(own)
    quarter = SLOW // QUARTERS
    for r in range(rows):
        place = 0
        for i in range(2):
            # A song of one row has no other row and uses itself again.
            x = own[(r + i) % rows]
            for q in range(QUARTERS):
                out[r, place] = log_level(x, t - SLOW + q * quarter, t - SLOW + (q + 1) * quarter)
                place += 1
            out[r, place] = log_edge(x, t - SLOW, t)
            place += 1
        m = passage[r]
        for q in range(QUARTERS):
            out[r, place] = log_level(m, t + q * quarter, t + (q + 1) * quarter)
            place += 1
        out[r, place] = log_edge(m, t, t + SLOW)
        out[r, place + 1] = log_level(m, t - SLOW, t)
        out[r, place + 2] = log_level(m, t + SLOW, t + 2 * SLOW)
        out[r, place + 3] = log_level(passage[(r + 1) % rows], t, t + SLOW)
        out[r, place + 4] = nearness[0]
        out[r, place + 5] = nearness[1]


@inlined
def fast_features(own: F32, passage: F32, t: int, out: F32) -> None:
    """Fill ``out`` (rows, FAST_FEATURES) for the fast step that begins at frame ``t``."""
    rows = len(own)
    for r in range(rows):
        out[r, 0] = log_level(own[r], t - FAST, t)
        out[r, 1] = log_edge(own[r], t - FAST, t)
        out[r, 2] = log_level(own[(r + 1) % rows], t - FAST, t)
        out[r, 3] = log_level(passage[r], t, t + FAST)
        out[r, 4] = log_level(passage[r], t + FAST, t + 2 * FAST)
        out[r, 5] = log_level(passage[(r + 1) % rows], t, t + FAST)


@inlined
def sight(own: F32, passage: F32, t: int, look_back: int, out: F32) -> None:
    """Fill ``out`` (look_back + 2 AHEAD,): the samples of one row that the head sees at ``t``."""
    for i in range(look_back):
        out[i] = math.asinh(own[t - look_back + i])
    for i in range(2 * AHEAD):
        out[look_back + i] = math.asinh(passage[t - AHEAD + i])


@compiled
def all_features(own: F32, passage: F32, start: int, nearness: F32, slow: F32, fast: F32) -> None:
    """Fill ``slow`` (rows, n, SLOW_FEATURES) and ``fast`` (rows, n SLOW / FAST, FAST_FEATURES).

    The first step begins at frame ``start`` of the excitations, at least ``SLOW``.
    """
    for i in range(slow.shape[1]):
        slow_features(own, passage, start + i * SLOW, nearness[i], slow[:, i])
    for j in range(fast.shape[1]):
        fast_features(own, passage, start + j * FAST, fast[:, j])


@compiled
def all_sights(own: F32, passage: F32, starts: NDArray[np.int64], look_back: int, out: F32) -> None:
    """Fill ``out`` (frames * FAST, sight) of one row for the fast frames at ``starts``."""
    for i in range(len(starts)):
        for s in range(FAST):
            sight(own, passage, starts[i] + s, look_back, out[i * FAST + s])

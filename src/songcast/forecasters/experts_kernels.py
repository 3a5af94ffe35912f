"""The compiled loops of the expert bank: one adaptive filter over one block of one channel.

Each kernel reads a signal with its past in front (``past + block`` samples), writes the
prediction of every sample of the block from the samples before it, and carries its state in
arrays, so that a song heard in blocks of any size gives, bit for bit, what it gives whole.

Compiled code is cached beside this file in ``__pycache__`` (or ``NUMBA_CACHE_DIR``). The
kernels release the GIL.

Sources: Haykin, "Adaptive Filter Theory" (least squares, normalised LMS); the cascades follow
Monkey's Audio and MPEG-4 ALS RLS-LMS (Huang et al., IEEE TASLP 2013).
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

_F = TypeVar("_F", bound=Callable[..., Any])
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Ints = NDArray[np.int64]

# Reassociation lets dot products vectorise; "ninf"/"nnan" stay off: resets test for them.
FAST = {"nsz", "arcp", "contract", "afn", "reassoc"}
# Covariances are updated this many samples at a time: a rank-8 update is bound by arithmetic,
# a rank-1 update by memory.
RANK = 8
LOWEST, HIGHEST = -32768.0, 32767.0


def compiled(function: _F) -> _F:
    """Compile with numba: cached on disk, without the GIL."""
    result: _F = numba.njit(cache=True, fastmath=FAST, nogil=True)(function)
    return result


@compiled
def cholesky_solve(a: F64, b: F64, factor: F64, w: F64) -> bool:
    """Solve ``a w = b`` for a positive definite ``a`` (n, n), of which the lower half is read.

    ``factor`` (n, n) is scratch. Returns False, ``w`` untouched, if ``a`` is singular to
    working precision.
    """
    n = len(b)
    for i in range(n):
        for j in range(i):
            acc = 0.0
            for k in range(j):
                acc += factor[i, k] * factor[j, k]
            factor[i, j] = (a[i, j] - acc) * factor[j, j]
        acc = 0.0
        for k in range(i):
            acc += factor[i, k] * factor[i, k]
        pivot = a[i, i] - acc
        if not pivot > a[i, i] * 1e-14:
            return False
        factor[i, i] = 1.0 / math.sqrt(pivot)
    for i in range(n):
        acc = 0.0
        for k in range(i):
            acc += factor[i, k] * w[k]
        w[i] = (b[i] - acc) * factor[i, i]
    for i in range(n - 1, -1, -1):
        w[i] *= factor[i, i]
        for k in range(i):
            w[k] -= factor[i, k] * w[i]
    return True


@compiled
def least_squares(
    own: F64,
    other: F64,
    past: int,
    counts: Ints,
    forgetting: float,
    ridge: float,
    matrix: F64,
    vectors: F64,
    rows: F64,
    out: F64,
) -> None:
    """Exponentially weighted least squares over two channels' pasts.

    ``own``, ``other``: (past + frames,) in LSB. ``counts``: own taps, other taps, 1 if the
    other channel's current sample is visible, solve every so many samples, samples heard so
    far (updated). State: ``matrix`` (2, n, n) covariance and scratch, ``vectors`` (3, n)
    correlation, weights and scratch, ``rows`` (9, n) the last 8 regressors and, in the last
    row, their targets.
    ``out`` (frames,) is the prediction in LSB.
    """
    own_taps, other_taps, ahead, every = counts[0], counts[1], counts[2], counts[3]
    n = own_taps + other_taps
    covariance, factor = matrix[0], matrix[1]
    correlation, w = vectors[0], vectors[1]
    decay = forgetting**RANK
    for t in range(len(out)):
        k = counts[4] % RANK
        u = rows[k]
        o = past + t
        for i in range(own_taps):
            u[i] = own[o - own_taps + i]
        for i in range(other_taps):
            u[own_taps + i] = other[o + ahead - other_taps + i]
        p = 0.0
        for i in range(n):
            p += w[i] * u[i]
        out[t] = min(max(p, LOWEST), HIGHEST)
        rows[RANK, k] = own[o]
        counts[4] += 1
        if k < RANK - 1:
            continue
        for i in range(n):
            correlation[i] *= decay
            for j in range(i + 1):
                covariance[i, j] *= decay
        gain = 1.0
        for q in range(RANK - 1, -1, -1):
            for i in range(n):
                c = gain * rows[q, i]
                correlation[i] += c * rows[RANK, q]
                for j in range(i + 1):
                    covariance[i, j] += c * rows[q, j]
            gain *= forgetting
        if counts[4] % every == 0:
            _solve(covariance, correlation, ridge, factor, vectors[2], w)


@compiled
def _solve(covariance: F64, correlation: F64, ridge: float, factor: F64, w: F64, out: F64) -> None:
    """Solve the ridged system; keep the old weights ``out`` where it is singular."""
    n = len(correlation)
    diagonal = np.empty(n)
    for i in range(n):
        diagonal[i] = covariance[i, i]
        covariance[i, i] = diagonal[i] * (1.0 + 1e-11) + ridge
    solved = cholesky_solve(covariance, correlation, factor, w)
    finite = True
    for i in range(n):
        covariance[i, i] = diagonal[i]
        finite = finite and math.isfinite(w[i])
    if solved and finite:
        for i in range(n):
            out[i] = w[i]


@compiled
def normalised_lms(signal: F32, past: int, step: float, weights: F32, out: F32) -> None:
    """Normalised least mean squares: ``weights`` (taps,) is the state.

    ``signal``: (past + frames,) float32 in LSB; ``out`` (frames,) predicts it from its past.
    """
    taps = len(weights)
    mu = np.float32(step)
    # One LSB per tap keeps silence and faint noise from being learned at full speed.
    floor = np.float32(taps + 1)
    for t in range(len(out)):
        history = signal[past + t - taps : past + t]
        p = np.float32(0.0)
        power = np.float32(0.0)
        for i in range(taps):
            p += weights[i] * history[i]
            power += history[i] * history[i]
        out[t] = p
        gain = mu * (signal[past + t] - p) / (power + floor)
        if not abs(gain) < np.float32(1e6):
            weights[:] = 0.0
            out[t] = 0.0
        elif abs(gain) > np.float32(1e-12):
            # Below that nothing is learned; skipping it also keeps subnormal floats away.
            for i in range(taps):
                weights[i] += gain * history[i]

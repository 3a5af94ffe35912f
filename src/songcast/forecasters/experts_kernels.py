"""The compiled loops of the expert bank: one adaptive filter over one block of one channel.

Each kernel reads a signal with its past in front (``past + block`` samples), writes the
prediction of every sample of the block from the samples before it, and carries its state in
arrays, so that a song heard in blocks of any size gives, bit for bit, what it gives whole.

Compiled code is cached beside this file in ``__pycache__`` (or ``NUMBA_CACHE_DIR``); numba
looks only at the time stamp of the caller's file, so after changing a kernel here that
``combiner_kernels`` calls, touch that file too. The kernels release the GIL.

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
# Of the running peak, per sample.
PEAK_DECAY = 0.99
# Of the running variance that samples are weighed by.
VARIANCE_RATE, VARIANCE_FLOOR = 0.01, 0.1


def compiled(function: _F) -> _F:
    """Compile with numba: cached on disk, without the GIL."""
    result: _F = numba.njit(cache=True, fastmath=FAST, nogil=True)(function)
    return result


@compiled
def cholesky_solve(a: F64, b: F64, factor: F64, w: F64) -> bool:
    """Solve ``a w = b`` for a positive definite ``a`` (n, n), of which the upper half is read.

    ``factor`` (n, n) is scratch. Returns False, ``w`` spoilt, if ``a`` is singular to working
    precision. Columns are eliminated from whole rows, so that every inner loop is contiguous.
    """
    n = len(b)
    for i in range(n):
        w[i] = b[i]
        for j in range(i, n):
            factor[i, j] = a[i, j]
    for k in range(n):
        pivot = factor[k, k]
        if not pivot > a[k, k] * 1e-14:
            return False
        inverse = 1.0 / pivot
        for i in range(k + 1, n):
            c = factor[k, i] * inverse
            w[i] -= c * w[k]
            # Slices, not indices: numba vectorises only loops that start at 0.
            upper, lower = factor[k, i:], factor[i, i:]
            for j in range(len(lower)):
                lower[j] -= c * upper[j]
    for i in range(n - 1, -1, -1):
        acc = 0.0
        for j in range(i + 1, n):
            acc += factor[i, j] * w[j]
        w[i] = (w[i] - acc) / factor[i, i]
    return True


@compiled
def least_squares(
    own: F64,
    other: F64,
    past: int,
    counts: Ints,
    forgetting: float,
    ridge: float,
    weighting: float,
    matrix: F64,
    vectors: F64,
    rows: F64,
    recent: F64,
    out: F32,
) -> None:
    """Exponentially weighted least squares over two channels' pasts.

    ``own``, ``other``: (past + frames,) in LSB. ``counts``: own taps, other taps, 1 if the
    other channel's current sample is visible, solve every so many samples, samples heard so
    far (updated), sweeps per solution (0: solve exactly). State: ``matrix`` (2, n, n)
    covariance and scratch, ``vectors`` (3, n) correlation, weights and scratch, ``rows``
    (9, n) the last 8 regressors and, in the last row, their targets, ``recent`` (2,) peak and
    variance of the error. ``weighting``: samples count by the variance to minus this power.
    ``out`` (frames,) is the prediction in LSB.
    """
    own_taps, other_taps, ahead = counts[0], counts[1], counts[2]
    every, sweeps = counts[3], counts[5]
    n = own_taps + other_taps
    covariance, factor = matrix[0], matrix[1]
    correlation, w = vectors[0], vectors[1]
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
        # Right after an onset the solution may fit the onset alone: no prediction is much
        # louder than the signal has lately been.
        limit = min(2.0 * recent[0], -LOWEST)
        p = min(max(p, -limit), limit)
        out[t] = p
        recent[0] = max(abs(own[o]), PEAK_DECAY * recent[0])
        rows[RANK, k] = own[o]
        if weighting > 0.0:
            error = own[o] - p
            importance = (recent[1] + VARIANCE_FLOOR) ** (-0.5 * weighting)
            speed = max(VARIANCE_RATE, 1.0 / (counts[4] + 2.0))
            recent[1] += speed * (error * error - recent[1])
            for i in range(n):
                u[i] *= importance
            rows[RANK, k] *= importance
        counts[4] += 1
        if k < RANK - 1:
            continue
        accumulate(covariance, correlation, rows, forgetting)
        if counts[4] % every != 0:
            continue
        if sweeps > 0:
            for _ in range(sweeps):
                _sweep(covariance, correlation, ridge, w)
        else:
            solve_ridged(covariance, correlation, ridge, factor, vectors[2], w)


@compiled
def accumulate(covariance: F64, correlation: F64, rows: F64, forgetting: float) -> None:
    """Forget, then add the last 8 regressors in one pass over the matrix.

    All of it, though the upper half would do: the plain loop over whole rows vectorises and
    is faster than half of it with ragged ends.
    """
    n = len(correlation)
    decay = forgetting**RANK
    gains = np.empty(RANK)
    for q in range(RANK):
        gains[q] = forgetting ** (RANK - 1 - q)
    c = np.empty(RANK)
    for i in range(n):
        acc = decay * correlation[i]
        for q in range(RANK):
            c[q] = gains[q] * rows[q, i]
            acc += c[q] * rows[RANK, q]
        correlation[i] = acc
        for j in range(n):
            s = decay * covariance[i, j]
            for q in range(RANK):
                s += c[q] * rows[q, j]
            covariance[i, j] = s


@compiled
def solve_ridged(
    covariance: F64, correlation: F64, ridge: float, factor: F64, w: F64, out: F64
) -> None:
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
def _sweep(covariance: F64, correlation: F64, ridge: float, w: F64) -> None:
    """One Gauss-Seidel sweep from the present weights ``w`` towards the solution.

    Enough where the regressors are nearly white, as residuals are; a sweep never increases
    the squared error, so it cannot diverge, singular or not.
    """
    n = len(w)
    for i in range(n):
        acc = 0.0
        for j in range(n):
            acc += covariance[i, j] * w[j]
        w[i] += (correlation[i] - acc - ridge * w[i]) / (covariance[i, i] + ridge)


@compiled
def normalised_lms(
    signal: F32, past: int, step: float, weights: F32, memory: F64, out: F32
) -> None:
    """Normalised least mean squares.

    ``signal``: (past + frames,) float32 in LSB, ``past`` at least taps + 1; ``out`` (frames,)
    predicts it from its past. State: ``weights`` (taps,) and ``memory`` (2,),
    the update that the weights still wait for and the power of the history. An update is made
    in the same pass as the next prediction: the weights travel through the cache once.
    """
    taps = len(weights)
    pending = np.float32(memory[0])
    power = memory[1]
    # One LSB per tap keeps silence and faint noise from being learned at full speed.
    floor = taps + 1.0
    for t in range(len(out)):
        now = past + t
        older = signal[now - taps - 1 : now - 1]
        history = signal[now - taps : now]
        p = np.float32(0.0)
        for i in range(taps):
            w = weights[i] + pending * older[i]
            weights[i] = w
            p += w * history[i]
        newest, oldest = np.float64(history[taps - 1]), np.float64(older[0])
        power = max(power + newest * newest - oldest * oldest, 0.0)
        if not abs(p) < np.float32(1e6):
            weights[:] = np.float32(0.0)
            p = np.float32(0.0)
        out[t] = p
        error = signal[now] - p
        gain = step * error / (power + floor)
        # Below that nothing is learned; it also keeps subnormal floats away.
        pending = np.float32(gain) if abs(gain) > 1e-12 else np.float32(0.0)
    memory[0] = pending
    memory[1] = power

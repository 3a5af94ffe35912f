"""Compiled linear algebra for least squares: experts and combiner.

Compiled code is cached beside each file in ``__pycache__`` (or ``NUMBA_CACHE_DIR``); numba
looks only at the time stamp of the caller's file, so after changing a kernel here, touch
``experts_kernels`` and ``combiner_kernels`` too. The kernels release the GIL.
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

_F = TypeVar("_F", bound=Callable[..., Any])
F64 = NDArray[np.float64]

# Reassociation lets dot products vectorise; "ninf"/"nnan" stay off: resets test for them.
FAST = {"nsz", "arcp", "contract", "afn", "reassoc"}
# Covariances are updated this many samples at a time: a rank-8 update is bound by arithmetic,
# a rank-1 update by memory.
RANK = 8


def compiled(function: _F) -> _F:
    """Compile with numba: cached on disk, without the GIL."""
    result: _F = numba.njit(cache=True, fastmath=FAST, nogil=True)(function)
    return result


def inlined(function: _F) -> _F:
    """Compile for other compiled functions, as a part of each: never called, never cached alone.

    A function that is called from compiled code exists twice, alone and in its caller's module,
    optimised and thus rounded differently; which one runs would depend on whether the caller
    came from the cache.
    """
    result: _F = numba.njit(fastmath=FAST, nogil=True, forceinline=True)(function)
    return result


@inlined
def cholesky_solve(a: F64, b: F64, factor: F64, w: F64) -> bool:
    """Solve ``a w = b`` for a positive definite ``a`` (n, n), of which the upper half is read.

    ``factor`` (n, n) is scratch. Returns False, ``w`` spoilt, if ``a`` is singular to working
    precision. Columns are eliminated from whole rows, so that every inner loop is contiguous,
    and two at a time, so that a row travels through the cache half as often.
    """
    n = len(b)
    # Rows as slices of one flat array: numba pays for a row of a matrix, not for a slice.
    f = factor.reshape(-1)
    for i in range(n):
        w[i] = b[i]
        for j in range(i, n):
            factor[i, j] = a[i, j]
    for k in range(0, n, 2):
        pivot = factor[k, k]
        if not pivot > a[k, k] * 1e-14:
            return False
        if k + 1 == n:
            break
        first = f[k * n + k + 1 : k * n + n]
        second = f[k * n + n + k + 1 : k * n + 2 * n]
        c = first[0] / pivot
        w[k + 1] -= c * w[k]
        for j in range(len(first)):
            second[j] -= c * first[j]
        next_pivot = second[0]
        if not next_pivot > a[k + 1, k + 1] * 1e-14:
            return False
        inverse, next_inverse = 1.0 / pivot, 1.0 / next_pivot
        for i in range(1, len(first)):
            c, d = first[i] * inverse, second[i] * next_inverse
            at = k + 1 + i
            w[at] -= c * w[k] + d * w[k + 1]
            upper, middle, lower = first[i:], second[i:], f[at * n + at : at * n + n]
            for j in range(len(lower)):
                lower[j] -= c * upper[j] + d * middle[j]
    for i in range(n - 1, -1, -1):
        acc = 0.0
        row, known = f[i * n + i + 1 : i * n + n], w[i + 1 :]
        for j in range(len(row)):
            acc += row[j] * known[j]
        w[i] = (w[i] - acc) / factor[i, i]
    return True


@inlined
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


@inlined
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

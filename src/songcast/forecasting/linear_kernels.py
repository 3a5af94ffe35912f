"""Compiled linear algebra for least squares, inlined into the filter bank and the stacking."""

import math

import numpy as np
from numpy.typing import NDArray

from songcast.forecasting.compiled import inlined

F64 = NDArray[np.float64]

# Covariances are updated this many samples at a time: a rank-8 update is limited by arithmetic,
# a rank-1 update by memory.
RANK = 8


@inlined
def cholesky_solve(a: F64, b: F64, factor: F64, w: F64) -> bool:
    """Solve ``a w = b`` for a positive definite ``a`` (n, n); only its upper half is read.

    ``factor`` (n, n) is scratch. Returns False, with invalid ``w``, if ``a`` is singular to working
    precision. Columns are eliminated from whole rows, so that every inner loop is contiguous,
    and two at a time, so that a row travels through the cache half as often.
    """
    n = len(b)
    # Rows are slices of one flat array, which cost less in numba than the rows of a matrix.
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
    """Solve the ridge system; keep the old weights ``out`` if it is singular."""
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
    """Multiply by ``forgetting`` and add the last 8 regressors in one pass over the matrix.

    ``rows`` (9, n): 8 regressors, then their targets. The loop covers the whole matrix, although
    the upper half would be enough: it vectorises, and is faster than half of it with ragged ends.
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

"""Compiled linear algebra for least squares, inlined into the filter bank and the stacking.

Sizes are multiples of 4, of which only the lower half of a symmetric matrix is kept.
"""

import math

import numpy as np
from numpy.typing import NDArray

from songcast.forecasting.compiled import inlined
from songcast.forecasting.simd import LANES, load, multiply_add, splat, store, total

F64 = NDArray[np.float64]

# Covariances are updated this many samples at a time: a rank-8 update is limited by arithmetic,
# a rank-1 update by memory.
RANK = 8


@inlined
def solve_ridged(factor: F64, ridge: float, diagonal: F64, w: F64) -> bool:
    """Solve ``(factor + ridge) x = w`` in place; return False, with invalid ``w``, if singular.

    ``factor`` (n, n) is positive semidefinite. Only its lower half is read; it is overwritten.
    ``diagonal`` (n,) is scratch. Rows are eliminated from the last one on and four at a time, so
    that every inner loop begins at the first column and a row travels through the cache rarely.
    """
    n = len(w)
    # Rows are places in one flat array, which cost less in numba than the rows of a matrix.
    f = factor.reshape(-1)
    for i in range(n):
        f[i * n + i] = diagonal[i] = f[i * n + i] * (1.0 + 1e-11) + ridge
    for k in range(n - LANES, -1, -LANES):
        for q in range(k + 3, k - 1, -1):
            pivot = f[q * n + q]
            if not pivot > diagonal[q] * 1e-14:
                return False
            diagonal[q] = 1.0 / pivot
            for r in range(k, q):
                c = -f[q * n + r] * diagonal[q]
                w[r] += c * w[q]
                _add_row(f, q * n, r * n, c, k + LANES)
        _eliminate(f, k, diagonal, w)
    finite = True
    for k in range(0, n, LANES):
        s0 = s1 = s2 = s3 = splat(0.0)
        at = k * n
        for j in range(0, k, LANES):
            known = load(w, j)
            s0 = multiply_add(load(f, at + j), known, s0)
            s1 = multiply_add(load(f, at + n + j), known, s1)
            s2 = multiply_add(load(f, at + 2 * n + j), known, s2)
            s3 = multiply_add(load(f, at + 3 * n + j), known, s3)
        w[k] -= total(s0)
        w[k + 1] -= total(s1)
        w[k + 2] -= total(s2)
        w[k + 3] -= total(s3)
        for i in range(LANES):
            for j in range(i):
                w[k + i] -= f[at + i * n + k + j] * w[k + j]
            w[k + i] *= diagonal[k + i]
            finite = finite and math.isfinite(w[k + i])
    return finite


@inlined
def _add_row(f: F64, source: int, target: int, c: float, count: int) -> None:
    """Add ``c`` times the ``count`` numbers at ``source`` to those at ``target``."""
    factor = splat(c)
    for j in range(0, count, LANES):
        store(f, target + j, multiply_add(factor, load(f, source + j), load(f, target + j)))


@inlined
def _eliminate(f: F64, k: int, inverse: F64, w: F64) -> None:
    """Subtract the rows k to k + 3 from all rows before, two rows at a time."""
    n = len(w)
    p0, p1, p2, p3 = k * n, (k + 1) * n, (k + 2) * n, (k + 3) * n
    for i in range(0, k, 2):
        a0, a1 = -f[p0 + i] * inverse[k], -f[p1 + i] * inverse[k + 1]
        a2, a3 = -f[p2 + i] * inverse[k + 2], -f[p3 + i] * inverse[k + 3]
        b0, b1 = -f[p0 + i + 1] * inverse[k], -f[p1 + i + 1] * inverse[k + 1]
        b2, b3 = -f[p2 + i + 1] * inverse[k + 2], -f[p3 + i + 1] * inverse[k + 3]
        w[i] += (a0 * w[k] + a1 * w[k + 1]) + (a2 * w[k + 2] + a3 * w[k + 3])
        w[i + 1] += (b0 * w[k] + b1 * w[k + 1]) + (b2 * w[k + 2] + b3 * w[k + 3])
        u0, u1, u2, u3 = splat(a0), splat(a1), splat(a2), splat(a3)
        v0, v1, v2, v3 = splat(b0), splat(b1), splat(b2), splat(b3)
        for j in range(0, i + 2, LANES):
            first, second = i * n + j, (i + 1) * n + j
            row = load(f, p0 + j)
            x, y = multiply_add(u0, row, load(f, first)), multiply_add(v0, row, load(f, second))
            row = load(f, p1 + j)
            x, y = multiply_add(u1, row, x), multiply_add(v1, row, y)
            row = load(f, p2 + j)
            x, y = multiply_add(u2, row, x), multiply_add(v2, row, y)
            row = load(f, p3 + j)
            x, y = multiply_add(u3, row, x), multiply_add(v3, row, y)
            store(f, first, x)
            store(f, second, y)


@inlined
def accumulate(covariance: F64, correlation: F64, rows: F64, forgetting: float) -> None:
    """Multiply by ``forgetting`` and add the last 8 regressors in one pass over the lower half.

    ``rows`` (9, n): 8 regressors, then their targets; n is 8 or more.
    """
    n = len(correlation)
    a, r = covariance.reshape(-1), rows.reshape(-1)
    f1, targets = forgetting, RANK * n
    f2, f3 = f1 * f1, f1 * f1 * f1
    f4, f5, f6, f7 = f2 * f2, f2 * f3, f3 * f3, f3 * f3 * f1
    decay = splat(f4 * f4)
    for i in range(n):
        a0, a1, a2, a3 = f7 * r[i], f6 * r[n + i], f5 * r[2 * n + i], f4 * r[3 * n + i]
        a4, a5, a6, a7 = f3 * r[4 * n + i], f2 * r[5 * n + i], f1 * r[6 * n + i], r[7 * n + i]
        s = f4 * f4 * correlation[i]
        s += a0 * r[targets] + a1 * r[targets + 1] + a2 * r[targets + 2] + a3 * r[targets + 3]
        s += a4 * r[targets + 4] + a5 * r[targets + 5] + a6 * r[targets + 6] + a7 * r[targets + 7]
        correlation[i] = s
        c0, c1, c2, c3 = splat(a0), splat(a1), splat(a2), splat(a3)
        c4, c5, c6, c7 = splat(a4), splat(a5), splat(a6), splat(a7)
        for j in range(0, i + 1, LANES):
            x = multiply_add(decay, load(a, i * n + j), multiply_add(c0, load(r, j), splat(0.0)))
            x = multiply_add(c1, load(r, n + j), x)
            x = multiply_add(c2, load(r, 2 * n + j), x)
            x = multiply_add(c3, load(r, 3 * n + j), x)
            x = multiply_add(c4, load(r, 4 * n + j), x)
            x = multiply_add(c5, load(r, 5 * n + j), x)
            x = multiply_add(c6, load(r, 6 * n + j), x)
            x = multiply_add(c7, load(r, 7 * n + j), x)
            store(a, i * n + j, x)

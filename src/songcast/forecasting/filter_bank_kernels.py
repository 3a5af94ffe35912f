"""The compiled loops of the filter bank: one adaptive filter over one block of one channel.

Each kernel reads a signal that begins with its past (``past + frames`` samples), and writes the
prediction of every sample of the block from the samples before it. The state is carried in arrays:
the result does not depend on the size of the blocks, bit for bit.

Sources: Haykin, "Adaptive Filter Theory" (least squares, normalised LMS); the cascades follow
Monkey's Audio and MPEG-4 ALS RLS-LMS (Huang et al., IEEE TASLP 2013).
"""

import math

import numpy as np
from numpy.typing import NDArray

from songcast.forecasting.compiled import compiled, inlined
from songcast.forecasting.distribution_kernels import LOWEST
from songcast.forecasting.linear_kernels import RANK, accumulate, solve_ridged
from songcast.forecasting.simd import LANES, load, multiply_add, splat, store, total

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Ints = NDArray[np.int64]

# The weights of an LMS filter are updated once in this many samples.
BLOCK = 8
# Decay of the running peak, per sample.
PEAK_DECAY = 0.99
# Of the running variance that weights the samples.
VARIANCE_RATE, VARIANCE_FLOOR = 0.01, 0.1


@compiled
def least_squares(
    own: F64,
    other: F64,
    past: int,
    counts: Ints,
    forgetting: float,
    ridge: float,
    vectors: F64,
    edges: F64,
    rows: F64,
    covariance: F64,
    factor: F64,
    recent: F64,
    out: F32,
) -> None:
    """Exponentially weighted least squares over two channels' pasts.

    ``own``, ``other``: (past + frames,) in LSB. ``counts``: own taps, other taps, place of the
    first of these among the regressors, 1 if the other channel's current sample is available,
    samples between solutions, sweeps per solution (0: solve exactly), 1 if samples are weighted by
    the inverse variance of the error, samples processed so far (updated). State: ``vectors``
    (5, m) correlation, weights, regressors and scratch, where m is a multiple of 4 and regressors
    between the channels and behind them are 0; ``recent`` (2,) peak of the signal and variance of
    the error; ``edges`` as in ``_follow`` or, with weighted samples, ``rows`` (9, m) and
    ``covariance`` (m, m) as in ``accumulate``. ``factor`` (n + 2, n), where n is a multiple of 4
    and no less than the number of taps, is scratch. ``out`` (frames,) is the prediction in LSB.
    """
    own_taps, other_taps, side, current = counts[0], counts[1], counts[2], counts[3]
    every, sweeps, weighted = counts[4], counts[5], counts[6] != 0
    m, n = vectors.shape[1], factor.shape[1]
    # Flat arrays: every slice within the loop would cost two updates of a reference count.
    v, e, matrix = vectors.reshape(-1), edges.reshape(-1), factor[:n]
    correlation, w, u, scratch = vectors[0], vectors[1], vectors[2], v[3 * m :]
    for t in range(len(out)):
        o = past + t
        _copy(own, o - own_taps, u, 0, own_taps)
        _copy(other, o + current - other_taps, u, side, other_taps)
        products = splat(0.0)
        for i in range(0, m, LANES):
            products = multiply_add(load(w, i), load(u, i), products)
        # Right after an onset the solution may fit the onset only: the prediction is limited to
        # twice the recent peak of the signal.
        limit = min(2.0 * recent[0], -LOWEST)
        p = min(max(total(products), -limit), limit)
        out[t] = p
        recent[0] = max(abs(own[o]), PEAK_DECAY * recent[0])
        count = counts[7]
        counts[7] += 1
        if weighted:
            importance = 1.0 / math.sqrt(recent[1] + VARIANCE_FLOOR)
            error = own[o] - p
            recent[1] += max(VARIANCE_RATE, 1.0 / (count + 2.0)) * (error * error - recent[1])
            q = count % RANK
            for i in range(m):
                rows[q, i] = importance * u[i]
            rows[RANK, q] = importance * own[o]
            if q == RANK - 1:
                accumulate(covariance, correlation, rows, forgetting)
        else:
            _follow(e, v, counts, forgetting, own[o])
        if counts[7] % every != 0:
            continue
        if sweeps > 0:
            _sweep(e, correlation, w, scratch, counts, ridge)
            continue
        solution = factor[n + 1]
        if weighted:
            for i in range(n):  # an assignment of a whole array takes numba 4 s to compile
                for j in range(n):
                    matrix[i, j] = covariance[i, j]
        else:
            _expand(e, m, counts, matrix)
        solution[:] = 0.0
        for i in range(own_taps):
            solution[i] = correlation[i]
        for i in range(other_taps):
            solution[own_taps + i] = correlation[side + i]
        if solve_ridged(matrix, ridge, factor[n], solution):
            for i in range(own_taps):
                w[i] = solution[i]
            for i in range(other_taps):
                w[side + i] = solution[own_taps + i]


@inlined
def _copy(source: F64, first: int, target: F64, place: int, count: int) -> None:
    for i in range(0, count - LANES + 1, LANES):
        store(target, place + i, load(source, first + i))
    for i in range(count - count % LANES, count):
        target[place + i] = source[first + i]


@inlined
def _follow(e: F64, v: F64, counts: Ints, forgetting: float, target: float) -> None:
    """Update the correlation and the edges of the covariance by one sample.

    Regressors shift by one sample at a time, so covariance[i, j] equals the covariance[i + 1,
    j + 1] of one sample before, exactly, if the song begins after silence. An edge is the row of a
    channel's newest sample, and the edges of the last samples hold the whole covariance: the row
    of a regressor that is ``age`` samples older than the newest one is, as far as older regressors
    are concerned, the edge of ``age`` samples ago. ``e`` (own taps + other taps, m) are two
    circular lists, ``v`` the ``vectors`` of ``least_squares``; both are flat. The product of the
    two newest samples is kept in the first channel's edge only, and is 0 in the other one.
    """
    own_taps, other_taps, side, now = counts[0], counts[1], counts[2], counts[7] - 1
    m = len(v) // 5
    decay, gain = splat(forgetting), splat(target)
    own, own_before = now % own_taps * m, (now - 1) % own_taps * m
    newest = splat(v[2 * m + own_taps - 1])
    if other_taps == 0:
        for i in range(0, m, LANES):
            x, zero = load(v, 2 * m + i), splat(0.0)
            store(v, i, multiply_add(decay, load(v, i), multiply_add(gain, x, zero)))
            before = load(e, own_before + i)
            store(e, own + i, multiply_add(decay, before, multiply_add(newest, x, zero)))
        return
    newest_other = splat(v[2 * m + side + other_taps - 1])
    other = (own_taps + now % other_taps) * m
    other_before = (own_taps + (now - 1) % other_taps) * m
    for i in range(0, m, LANES):
        x, zero = load(v, 2 * m + i), splat(0.0)
        store(v, i, multiply_add(decay, load(v, i), multiply_add(gain, x, zero)))
        before, other_edge = load(e, own_before + i), load(e, other_before + i)
        store(e, own + i, multiply_add(decay, before, multiply_add(newest, x, zero)))
        store(e, other + i, multiply_add(decay, other_edge, multiply_add(newest_other, x, zero)))
    e[other + own_taps - 1] = 0.0


@inlined
def _expand(e: F64, m: int, counts: Ints, matrix: F64) -> None:
    """Write the lower half of the covariance to ``matrix`` (n, n), without gaps."""
    own_taps, other_taps, side, count = counts[0], counts[1], counts[2], counts[7]
    n, f = len(matrix), matrix.reshape(-1)
    for i in range(n * n):
        f[i] = 0.0
    for age in range(own_taps):
        edge, i = (count - 1 - age) % own_taps * m, own_taps - 1 - age
        for j in range(i + 1):
            f[i * n + j] = e[edge + age + j]
        # The other channel's regressors of the same age and older.
        for j in range(other_taps - age):
            f[(own_taps + j) * n + i] = e[edge + side + age + j]
    for age in range(other_taps):
        edge, i = (own_taps + (count - 1 - age) % other_taps) * m, own_taps + other_taps - 1 - age
        for j in range(own_taps - 1 - age):
            f[i * n + j] = e[edge + age + j]
        for j in range(other_taps - age):
            f[i * n + own_taps + j] = e[edge + side + age + j]


@inlined
def _sweep(e: F64, correlation: F64, w: F64, scratch: F64, counts: Ints, ridge: float) -> None:
    """Gauss-Seidel sweeps from the present weights towards the solution.

    Sufficient where the regressors are nearly white, as residuals are. A sweep never increases
    the squared error, so it cannot diverge, even if the covariance is singular. Regressors are
    visited from the newest to the oldest: then each needs only its products with older ones, which
    are contiguous, and passes its new weight on to them.
    """
    own_taps, other_taps, side, count = counts[0], counts[1], counts[2], counts[7]
    m = len(w)
    # The weights before the sweep are read from a copy: processors stall where a vector is read
    # just after one of its numbers was written.
    left, before = scratch[:m], scratch[m:]
    for _ in range(counts[5]):
        for i in range(m):
            left[i], before[i] = correlation[i], w[i]
        for age in range(max(own_taps, other_taps)):
            for channel in range(2):
                if age >= (own_taps if channel == 0 else other_taps):
                    continue
                if channel == 0:
                    edge, newest = (count - 1 - age) % own_taps * m, own_taps - 1
                else:
                    edge = (own_taps + (count - 1 - age) % other_taps) * m
                    newest = side + other_taps - 1
                i = newest - age
                inverse = 1.0 / (e[edge + newest] + ridge)
                own, other = edge + age, edge + side + age
                x = y = splat(0.0)
                for j in range(0, own_taps - age, LANES):
                    x = multiply_add(load(e, own + j), load(before, j), x)
                for j in range(0, other_taps - age, LANES):
                    y = multiply_add(load(e, other + j), load(before, side + j), y)
                known = total(x) + total(y) + ridge * before[i]
                w[i] = before[i] + (left[i] - known) * inverse
                weight = splat(-w[i])
                for j in range(0, own_taps - age, LANES):
                    store(left, j, multiply_add(weight, load(e, own + j), load(left, j)))
                for j in range(side, side + other_taps - age, LANES):
                    store(left, j, multiply_add(weight, load(e, edge + age + j), load(left, j)))


@compiled
def normalised_lms(
    signal: F32, step: float, weights: F32, line: F32, block: F64, at: Ints, out: F32
) -> None:
    """Normalised least mean squares, exact, although the weights are updated every 8 samples.

    ``signal``, ``out``: (frames,) float32 in LSB, and the prediction. The 8 samples of a block are
    predicted with the weights at its beginning, plus the effect of the errors within the block,
    which needs only the signal's autocorrelation at lags below 8 (Benesty and Duhamel, "A fast
    exact least mean square adaptive algorithm", 1992). Thus the weights travel through the cache
    once in 8 samples. State: ``weights`` (taps,), a multiple of 8; ``line`` (taps + 16 or more,)
    the last taps + 8 samples before the block, its samples so far, then zeros; ``block`` (96,), see
    below; ``at`` (2,) the place of the block in ``line``, and its samples so far.
    """
    taps = len(weights)
    # Six parts of ``block``, 16 numbers each: predictions by the weights at the beginning; gains
    # of the errors so far; the newest 8 weights; autocorrelation over the last taps samples, of
    # lag 8 - i at place i; the samples from 8 before the beginning; and those taps before them.
    # What does not exist yet is 0.
    base, gains, tail, products, fresh, old = 0, 16, 32, 48, 64, 80
    # One LSB per tap limits the step size in silence and faint noise.
    floor = taps + 1.0
    start, k = at[0], at[1]
    # The last gain stays in a register for one sample: processors stall where a vector is read
    # just after one of its numbers was written.
    last, block[gains + k - 1] = block[gains + k - 1], 0.0
    for t in range(len(out)):
        if k == BLOCK:
            start, k = start + BLOCK, 0
            if start + BLOCK > len(line):
                kept = taps + BLOCK
                for i in range(kept):
                    line[i] = line[start - kept + i]
                line[kept:] = np.float32(0.0)
                start = kept
            block[gains + BLOCK - 1], last = last, 0.0
            _next_block(weights, line[start - taps - BLOCK :], block)
            for i in range(BLOCK):
                block[tail + i] = weights[taps - BLOCK + i]
                block[fresh + i], block[fresh + BLOCK + i] = block[fresh + BLOCK + i], 0.0
            for i in range(2 * BLOCK):
                block[old + i] = line[start - taps - BLOCK + i]
        sums = splat(0.0)
        for i in range(0, BLOCK, LANES):
            near, far = tail + BLOCK - k + i, products + BLOCK - k + i
            sums = multiply_add(load(block, near), load(block, fresh + BLOCK + i), sums)
            sums = multiply_add(load(block, far), load(block, gains + i), sums)
        p = block[base + k] + total(sums) + last * block[products + BLOCK - 1]
        if not abs(p) < 1e6:
            weights[:] = np.float32(0.0)
            block[base:products] = 0.0
            p = last = 0.0
        out[t] = p
        newest = np.float64(signal[t])
        line[start + k] = signal[t]
        block[fresh + BLOCK + k] = newest
        block[gains + k - 1] = last
        gain = (newest - p) * (step / (max(block[products + BLOCK], 0.0) + floor))
        # Smaller updates are dropped, which also avoids subnormal floats.
        last = gain if abs(gain) > 1e-12 else 0.0
        add, drop = splat(newest), splat(-block[old + BLOCK + k])
        for i in range(1, BLOCK, LANES):
            sums = multiply_add(drop, load(block, old + k + i), load(block, products + i))
            sums = multiply_add(add, load(block, fresh + k + i), sums)
            store(block, products + i, sums)
        k += 1
    block[gains + k - 1] = last
    at[0], at[1] = start, k


@inlined
def _next_block(weights: F32, line: F32, block: F64) -> None:
    """Update the weights by the last block, and predict the next one as far as it is known.

    ``line`` begins taps + 8 samples before the next block.
    """
    zero = np.float32(0.0)
    g0, g1 = np.float32(block[16]), np.float32(block[17])
    g2, g3 = np.float32(block[18]), np.float32(block[19])
    g4, g5 = np.float32(block[20]), np.float32(block[21])
    g6, g7 = np.float32(block[22]), np.float32(block[23])
    p0 = p1 = p2 = p3 = p4 = p5 = p6 = p7 = zero
    for i in range(len(weights)):
        w = weights[i] + g0 * line[i] + g1 * line[i + 1] + g2 * line[i + 2] + g3 * line[i + 3]
        w += g4 * line[i + 4] + g5 * line[i + 5] + g6 * line[i + 6] + g7 * line[i + 7]
        weights[i] = w
        p0 += w * line[i + 8]
        p1 += w * line[i + 9]
        p2 += w * line[i + 10]
        p3 += w * line[i + 11]
        p4 += w * line[i + 12]
        p5 += w * line[i + 13]
        p6 += w * line[i + 14]
        p7 += w * line[i + 15]
    block[0], block[1], block[2], block[3] = p0, p1, p2, p3
    block[4], block[5], block[6], block[7] = p4, p5, p6, p7
    for i in range(BLOCK):
        block[16 + i] = 0.0

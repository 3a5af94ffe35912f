"""The compiled loops of the filter bank: one adaptive filter over one block of one channel.

Each kernel reads a signal that begins with its past (``past + frames`` samples), and writes the
prediction of every sample of the block from the samples before it. The state is carried in arrays:
the result does not depend on the size of the blocks, bit for bit.

Sources: Haykin, "Adaptive Filter Theory" (least squares, normalised LMS); the cascades follow
Monkey's Audio and MPEG-4 ALS RLS-LMS (Huang et al., IEEE TASLP 2013).
"""

import numpy as np
from numpy.typing import NDArray

from songcast.forecasting.compiled import compiled, inlined
from songcast.forecasting.linear_kernels import RANK, accumulate, solve_ridged

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Ints = NDArray[np.int64]

LOWEST, HIGHEST = -32768.0, 32767.0
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
    weighting: float,
    matrix: F64,
    vectors: F64,
    edges: F64,
    rows: F64,
    recent: F64,
    out: F32,
) -> None:
    """Exponentially weighted least squares over two channels' pasts.

    ``own``, ``other``: (past + frames,) in LSB. ``counts``: own taps, other taps, 1 if the
    other channel's current sample is available, samples between solutions, samples processed so
    far (updated), sweeps per solution (0: solve exactly). ``weighting``: samples are weighted by
    the variance to minus this power. State: ``matrix`` (2, n, n) covariance and scratch,
    ``vectors`` (5, n) correlation, weights, regressors and scratch, ``recent`` (2,) peak of the
    signal and variance of the error; ``edges`` (every, 2, n) as in ``_advance``, or, with
    weighting, ``rows`` (9, max(n, 8)) as in ``accumulate``. ``out`` (frames,) is the prediction
    in LSB.
    """
    own_taps, other_taps, current, every = counts[0], counts[1], counts[2], counts[3]
    n = own_taps + other_taps
    correlation, w, u = vectors[0], vectors[1], vectors[2]
    for t in range(len(out)):
        o = past + t
        history, side = own[o - own_taps : o], u[own_taps:]
        for i in range(own_taps):
            u[i] = history[i]
        history = other[o + current - other_taps : o + current]
        for i in range(other_taps):
            side[i] = history[i]
        p = 0.0
        for i in range(n):
            p += w[i] * u[i]
        # Right after an onset the solution may fit the onset only: the prediction is limited to
        # twice the recent peak of the signal.
        limit = min(2.0 * recent[0], -LOWEST)
        p = min(max(p, -limit), limit)
        out[t] = p
        recent[0] = max(abs(own[o]), PEAK_DECAY * recent[0])
        count = counts[4]
        counts[4] += 1
        if weighting > 0.0:
            importance = (recent[1] + VARIANCE_FLOOR) ** (-0.5 * weighting)
            error = own[o] - p
            recent[1] += max(VARIANCE_RATE, 1.0 / (count + 2.0)) * (error * error - recent[1])
            q = count % RANK
            for i in range(n):
                rows[q, i] = importance * u[i]
            rows[RANK, q] = importance * own[o]
            if q == RANK - 1:
                accumulate(matrix[0], correlation, rows, forgetting)
        else:
            _follow(vectors, edges, count % every, own_taps, forgetting, own[o])
        if counts[4] % every != 0:
            continue
        if weighting == 0.0:
            _advance(matrix[0], edges, own_taps)
        if counts[5] > 0:
            _sweep(matrix[0], correlation, ridge, counts[5], vectors[3:], w)
        else:
            solve_ridged(matrix[0], correlation, ridge, matrix[1], vectors[3], w)


@inlined
def _follow(
    vectors: F64, edges: F64, k: int, own_taps: int, forgetting: float, target: float
) -> None:
    """Update correlation and edges by one sample; see ``least_squares``."""
    n, before = vectors.shape[1], (k if k > 0 else len(edges)) - 1
    for i in range(n):
        vectors[0, i] = forgetting * vectors[0, i] + target * vectors[2, i]
    for channel in range(2):
        newest = vectors[2, own_taps - 1] if channel == 0 else vectors[2, n - 1]
        for i in range(n):
            edges[k, channel, i] = forgetting * edges[before, channel, i] + newest * vectors[2, i]


@inlined
def _advance(covariance: F64, edges: F64, own_taps: int) -> None:
    """Update the covariance of the regressors by as many samples as there are edges.

    Regressors shift by one sample at a time, so covariance[i, j] equals the covariance[i + 1,
    j + 1] of one sample before, exactly, if the song begins after silence. Only the rows of both
    channels' newest samples are new: ``edges`` (every, 2, n), one pair per sample.
    """
    every, n = len(edges), len(covariance)
    flat, flat_edges = covariance.reshape(-1), edges.reshape(-1)
    for first, last in ((0, own_taps), (own_taps, n)):
        for row in range(first, last - every):
            for begin, end in ((0, own_taps), (own_taps, n)):
                kept = max(end - begin - every, 0)
                stop = (row + every) * n + end
                source, target = flat[stop - kept : stop], flat[row * n + begin :]
                for j in range(kept):
                    target[j] = source[j]
    for channel in range(2):
        first, last = (0, own_taps) if channel == 0 else (own_taps, n)
        for age in range(min(every, last - first)):
            row = last - 1 - age
            at = ((every - 1 - age) * 2 + channel) * n
            for begin, end in ((0, own_taps), (own_taps, n)):
                count = max(end - age - begin, 0)
                edge = flat_edges[at + end - count : at + end]
                across, down = flat[row * n + begin :], flat[begin * n + row :]
                for j in range(count):
                    across[j] = edge[j]
                for j in range(count):
                    down[j * n] = edge[j]


@inlined
def _sweep(
    covariance: F64, correlation: F64, ridge: float, sweeps: int, scratch: F64, w: F64
) -> None:
    """Gauss-Seidel sweeps from the present weights ``w`` towards the solution.

    Sufficient where the regressors are nearly white, as residuals are. A sweep never increases
    the squared error, so it cannot diverge, even if the covariance is singular. ``scratch``
    (2, n): the residual of the correlation, updated so that no sum depends on the weight before.
    """
    n = len(w)
    left, inverse = scratch[0], scratch[1]
    flat = covariance.reshape(-1)
    for i in range(n):
        left[i] = correlation[i] - ridge * w[i]
        inverse[i] = 1.0 / (covariance[i, i] + ridge)
    for i in range(n):
        row, weight = flat[i * n : i * n + n], w[i]
        for j in range(n):
            left[j] -= weight * row[j]
    for _ in range(sweeps):
        for i in range(n):
            row, move = flat[i * n : i * n + n], left[i] * inverse[i]
            w[i] += move
            for j in range(n):
                left[j] -= move * row[j]
            left[i] -= ridge * move


@compiled
def normalised_lms(
    signal: F32, past: int, step: float, weights: F32, pending: F64, out: F32
) -> None:
    """Normalised least mean squares.

    ``signal``: (past + frames,) float32 in LSB, ``past`` at least taps + 1; ``out`` (frames,)
    is the prediction. State: ``weights`` (taps,) and ``pending`` (2,), the next update of the
    weights and the power of the history. The update happens in the same pass as the next
    prediction, so that the weights travel through the cache once.
    """
    taps = len(weights)
    update = np.float32(pending[0])
    power = pending[1]
    # One LSB per tap limits the step size in silence and faint noise.
    floor = taps + 1.0
    for t in range(len(out)):
        now = past + t
        older = signal[now - taps - 1 : now - 1]
        history = signal[now - taps : now]
        p = np.float32(0.0)
        for i in range(taps):
            w = weights[i] + update * older[i]
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
        # Smaller updates are dropped, which also avoids subnormal floats.
        update = np.float32(gain) if abs(gain) > 1e-12 else np.float32(0.0)
    pending[0] = update
    pending[1] = power

"""The compiled loops of the match model: the filters over the aligned places."""

import numpy as np
from numpy.typing import NDArray

from songcast.forecasting.compiled import compiled, inlined

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Ints = NDArray[np.int64]

# Covariances are updated this many frames at a time, and solved for this often.
RANK = 8
SOLVE_EVERY = 4 * RANK
# Least squares: forgetting and ridge; NLMS: step and floor of the power per regressor; the
# combination of both: forgetting and ridge; rate of the running errors.
FORGETTING, RIDGE, STEP, POWER_FLOOR = 0.999, 20.0, 0.008, 0.1
MIX_FORGETTING, MIX_RIDGE, ERROR_RATE = 0.998, 20.0, 1 / 256
# Limit of a prediction, in widths of the mixture.
MAX_MOVE = 2.0
# Limits of the ratio of running errors; the floor serves silence.
MIN_RATIO, MAX_RATIO, FLOOR = 0.05, 1.2, 1e-3
# Keeps decaying sums out of the range of subnormal floats, which are slow.
TINY = 1e-30


@compiled
def follow(
    errors: F32,
    first: int,
    lags: Ints,
    reach: int,
    count: Ints,
    matrix: F32,
    vectors: F32,
    rows: F32,
    running: F64,
    moves: F32,
    ratios: F32,
) -> None:
    """Predict the frames from ``first`` on from the errors around the aligned places.

    ``errors`` (channels, at least first + frames) in widths; ``lags`` (places,) frames, 0 where
    there is no place; regressors are the errors at most ``reach`` frames from the aligned frame,
    n in all. State: ``count`` (1,) frames processed, ``matrix`` (n, n) covariance, ``vectors``
    (channels, 3, n) correlation, weights of least squares and of NLMS, ``rows`` (8, n + channels)
    the last regressors and targets, ``running`` (channels, 7): 2 x 2 covariance (3), correlation
    (2), mean \\|error\\| without and with the prediction.
    ``moves``, ``ratios`` (channels, frames): predicted error, and ratio of the running errors.
    """
    channels, n = len(vectors), len(matrix)
    wide = 2 * reach + 1
    floor = 1.0 + POWER_FLOOR * n
    scratch = np.empty((2, n), np.float32)
    active = False
    for k in range(len(lags)):
        active = active or lags[k] > 0
    for t in range(moves.shape[1]):
        now = first + t
        slot = count[0] % RANK
        u = rows[slot]
        power = np.float32(0.0)
        for k in range(len(lags)):
            for c in range(channels):
                part = u[(k * channels + c) * wide : (k * channels + c + 1) * wide]
                start = now - lags[k] - reach
                if lags[k] > 0 and start >= 0:
                    place = errors[c, start : start + wide]
                    for i in range(wide):
                        part[i] = place[i]
                        power += part[i] * part[i]
                else:
                    for i in range(wide):
                        part[i] = np.float32(0.0)
        for c in range(channels):
            state, target = running[c], np.float64(errors[c, now])
            v, w = vectors[c, 1], vectors[c, 2]
            p, q = np.float32(0.0), np.float32(0.0)
            for i in range(n):
                p += v[i] * u[i]
                q += w[i] * u[i]
            a, b = np.float64(p), np.float64(q)
            move = _combined(a, b, state)
            moves[c, t] = move
            ratio = (state[6] + FLOOR) / (state[5] + FLOOR)
            ratios[c, t] = min(max(ratio, MIN_RATIO), MAX_RATIO)
            # Adapt.
            u[n + c] = errors[c, now]
            gain = np.float32(STEP * (target - b) / (power + floor))
            for i in range(n):
                w[i] += gain * u[i]
            state[0] = MIX_FORGETTING * state[0] + a * a + TINY
            state[1] = MIX_FORGETTING * state[1] + a * b + TINY
            state[2] = MIX_FORGETTING * state[2] + b * b + TINY
            state[3] = MIX_FORGETTING * state[3] + a * target + TINY
            state[4] = MIX_FORGETTING * state[4] + b * target + TINY
            state[5] += ERROR_RATE * (abs(target) - state[5])
            state[6] += ERROR_RATE * (abs(target - move) - state[6])
        count[0] += 1
        if slot == RANK - 1:
            _accumulate(matrix, vectors, rows)
            if active and count[0] % SOLVE_EVERY == 0:
                for c in range(channels):
                    _sweep(matrix, vectors[c, 0], scratch, vectors[c, 1])


@inlined
def _combined(a: float, b: float, state: F64) -> float:
    """Combine two predictions by least squares with a penalty on the distance from the mean."""
    p, q, r = state[0] + MIX_RIDGE, state[1], state[2] + MIX_RIDGE
    x, y = state[3] + 0.5 * MIX_RIDGE, state[4] + 0.5 * MIX_RIDGE
    move = ((r * x - q * y) * a + (p * y - q * x) * b) / (p * r - q * q)
    return float(min(max(move, -MAX_MOVE), MAX_MOVE))


@inlined
def _accumulate(matrix: F32, vectors: F32, rows: F32) -> None:
    """Multiply by ``FORGETTING`` and add the last 8 regressors, if any of them is not zero."""
    n = len(matrix)
    decay = np.float32(FORGETTING**RANK)
    c = np.empty(RANK, np.float32)
    power = np.float32(0.0)
    for q in range(RANK):
        for i in range(n):
            power += rows[q, i] * rows[q, i]
    if not power > TINY:
        return
    for i in range(n):
        for q in range(RANK):
            c[q] = np.float32(FORGETTING ** (RANK - 1 - q)) * rows[q, i]
        row = matrix[i]
        for j in range(n):
            s = decay * row[j]
            for q in range(RANK):
                s += c[q] * rows[q, j]
            row[j] = s
        for k in range(len(vectors)):
            s = decay * vectors[k, 0, i]
            for q in range(RANK):
                s += c[q] * rows[q, n + k]
            vectors[k, 0, i] = s


@inlined
def _sweep(matrix: F32, correlation: F32, scratch: F32, w: F32) -> None:
    """One Gauss-Seidel sweep from the present weights ``w`` towards the solution.

    It never increases the squared error, and costs n² instead of n³. ``scratch`` (2, n).
    """
    n = len(w)
    left, inverse, ridge = scratch[0], scratch[1], np.float32(RIDGE)
    for i in range(n):
        left[i] = correlation[i] - ridge * w[i]
        inverse[i] = np.float32(1.0) / (matrix[i, i] + ridge)
    for i in range(n):
        row, weight = matrix[i], w[i]
        for j in range(n):
            left[j] -= weight * row[j]
    for i in range(n):
        row, change = matrix[i], left[i] * inverse[i]
        w[i] += change
        for j in range(n):
            left[j] -= change * row[j]
        left[i] -= ridge * change

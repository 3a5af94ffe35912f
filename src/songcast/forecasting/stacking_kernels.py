"""The compiled loops of the stacking: regression, running errors, mixture weights."""

import math

import numpy as np
from numpy.typing import NDArray

from songcast.forecasting.compiled import compiled
from songcast.forecasting.distribution_kernels import (
    HIGHEST,
    LOWEST,
    MAX_SCALE_LSB,
    MIN_SCALE_LSB,
    logistic,
)
from songcast.forecasting.linear_kernels import RANK, accumulate, solve_ridged
from songcast.forecasting.simd import LANES, load, multiply_add, splat, total

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Ints = NDArray[np.int64]

# Mean absolute value of a logistic of scale 1.
LOGISTIC_MEAN_ABS = 2.0 * math.log(2.0)
# Samples are weighted by the inverse running variance, so that loud passages do not dominate.
VARIANCE_RATE, VARIANCE_FLOOR = 0.02, 0.1
FIRST_VARIANCE = 1e4
# Keeps the ratios of the experts' errors apart from 0 / 0.
ERROR_FLOOR = 0.1
# Limit of the distance from the best expert, in its running mean errors.
GUARD = 8.0
RIDGE = 10.0
# Rate of the experts' running errors.
ERROR_RATE = 1 / 128
# Of the log weights of the mixture, and the smallest unnormalised weight.
WEIGHT_FORGETTING, LEAST_WEIGHT = 0.99, 1e-4
# The component whose running error is the unit of the features: the slow regression's at the
# middle rate.
UNIT_INDEX = 4


@compiled
def stack(
    x: F64,
    means: F32,
    errors: F32,
    centre: F64,
    forgetting: float,
    solve_every: int,
    state: F64,
    matrix: F64,
    vectors: F64,
    rows: F64,
    out: F64,
) -> None:
    """Combine one channel's expert means by exponentially weighted ridge regression.

    The regression maps the experts' distances from ``centre`` to the sample's distance from it,
    and is solved every ``solve_every`` frames, a multiple of 8. ``x`` and ``centre`` (frames,),
    ``means`` and their running ``errors`` (frames, experts), ``out`` (frames,) the stacked mean,
    all in LSB.
    State: ``state`` (2,) running variance and number of samples processed, ``matrix`` (2, n, n),
    where n is the number of experts rounded up to a multiple of 4, and at least 8, ``vectors``
    (4, n), ``rows`` (9, n) as in ``accumulate``.
    """
    experts, n = means.shape[1], vectors.shape[1]
    w, d, solution = vectors[1], vectors[2], vectors[3]
    scratch = np.empty(n)
    for t in range(len(x)):
        base = centre[t]
        for k in range(experts):
            d[k] = means[t, k] - base
        sums = splat(0.0)
        for k in range(0, n, LANES):
            sums = multiply_add(load(w, k), load(d, k), sums)
        location = base + total(sums)
        # At an onset some experts explode before the weights adapt: stay near the expert with
        # the smallest recent error.
        best = 0
        for k in range(1, experts):
            if errors[t, k] < errors[t, best]:
                best = k
        reach = GUARD * errors[t, best] + 1.0
        location = min(max(location, means[t, best] - reach), means[t, best] + reach)
        location = min(max(location, LOWEST), HIGHEST)
        out[t] = location
        error = x[t] - location
        count = np.int64(state[1])
        importance = 1.0 / math.sqrt(state[0] + VARIANCE_FLOOR)
        state[0] += max(VARIANCE_RATE, 1.0 / (count + 2.0)) * (error * error - state[0])
        state[1] = count + 1
        q = count % RANK
        for k in range(n):
            rows[q, k] = importance * d[k]
        rows[RANK, q] = importance * (x[t] - base)
        if q == RANK - 1 and experts > 1:
            accumulate(matrix[0], vectors[0], rows, forgetting)
            if (count + 1) % solve_every == 0:
                # Loops, because an assignment of a whole array takes numba seconds to compile.
                for i in range(len(solution)):
                    solution[i] = vectors[0, i]
                    for j in range(len(solution)):
                        matrix[1, i, j] = matrix[0, i, j]
                if solve_ridged(matrix[1], RIDGE, scratch, solution):
                    for i in range(len(solution)):
                        w[i] = solution[i]


@compiled
def follow_errors(x: F64, means: F32, count: int, errors: F64, out: F32, centre: F64) -> None:
    """Update the running mean |error| of every expert; ``out`` is its value before each sample.

    ``x`` (frames,), ``means`` and ``out`` (frames, experts), all in LSB. ``centre`` (frames,): the
    average of the experts, weighted by their error to the power -16. State: ``errors`` (experts,)
    and ``count``, the number of samples processed before.
    """
    for t in range(len(x)):
        speed = max(ERROR_RATE, 1.0 / (count + t + 2.0))
        least = errors[0]
        for k in range(means.shape[1]):
            least = min(least, errors[k])
        average, total = 0.0, 0.0
        for k in range(means.shape[1]):
            ratio = (least + ERROR_FLOOR) / (errors[k] + ERROR_FLOOR)
            weight = ratio * ratio * ratio * ratio
            weight = weight * weight * weight * weight
            average += weight * means[t, k]
            total += weight
            out[t, k] = errors[k]
            errors[k] += speed * (abs(x[t] - means[t, k]) - errors[k])
        centre[t] = average / total


@compiled
def mix(
    x: F64,
    locations: F64,
    rates: F64,
    state: F64,
    weights: F64,
    scales: F64,
    unit: F64,
    mean: F64,
    low: F64,
    mass: F64,
) -> None:
    """Follow each component's mean |error|; weight the components by recent code length.

    ``x`` (frames,), ``locations`` (frames, components) in LSB, ``rates`` (components,) of the
    running errors. State: running errors and log weights of the components, and the number of
    samples processed. Output, before each sample: ``weights`` and ``scales`` (frames, components),
    ``unit`` (frames,), the running error of the component ``UNIT_INDEX``, and ``mean``, ``low``,
    ``mass`` (frames,) of the mixture, as in ``distribution_kernels.measure``.
    """
    components = len(rates)
    running, log_weights = state[:components], state[components : 2 * components]
    count = np.int64(state[2 * components])
    shares = np.empty(components)
    for t in range(len(x)):
        top = log_weights[0]
        for j in range(components):
            top = max(top, log_weights[j])
        total = 0.0
        for j in range(components):
            weights[t, j] = math.exp(log_weights[j] - top) + LEAST_WEIGHT
            total += weights[t, j]
        speed = 1.0 / (count + t + 1.0)
        unit[t] = running[UNIT_INDEX]
        centre, below, own = 0.0, 0.0, 0.0
        for j in range(components):
            weights[t, j] /= total
            location = min(max(locations[t, j], LOWEST), HIGHEST)
            scale = running[j] / LOGISTIC_MEAN_ABS + 0.02
            scale = min(max(scale, MIN_SCALE_LSB), MAX_SCALE_LSB)
            scales[t, j] = scale
            lower, share = logistic(x[t], location, scale)
            shares[j] = share
            centre += weights[t, j] * location
            below += weights[t, j] * lower
            own += weights[t, j] * share
            running[j] += max(rates[j], speed) * (abs(x[t] - location) - running[j])
        mean[t], low[t], mass[t] = centre, below, own
        for j in range(components):
            log_change = math.log(shares[j] + 1e-12)
            log_weights[j] = WEIGHT_FORGETTING * (log_weights[j] - top) + log_change
    state[2 * components] += len(x)

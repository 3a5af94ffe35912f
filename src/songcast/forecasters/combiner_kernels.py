"""The compiled loop of the combiner: stacking, running scales, mixture weights."""

import math

import numpy as np
from numpy.typing import NDArray

from songcast.forecasters.experts_kernels import cholesky_solve, compiled

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Ints = NDArray[np.int64]

LOWEST, HIGHEST = -32768.0, 32767.0
# Mean absolute value of a logistic of scale 1.
LOGISTIC_MEAN_ABS = 2.0 * math.log(2.0)


@compiled
def combine(
    x: F64,
    means: F32,
    rates: F64,
    knobs: F64,
    clock: Ints,
    matrix: F64,
    vectors: F64,
    errors: F64,
    scale_state: F64,
    log_weights: F64,
    out_mean: F64,
    out_scales: F64,
    out_weights: F64,
    out_errors: F32,
) -> None:
    """Combine one channel's expert means over one block; all causal.

    ``x`` (frames,) the samples, ``means`` (frames, experts), ``rates`` (scales,) of the running
    mean errors, ``knobs``: forgetting of the stacker, its ridge, memory of the log weights,
    rate of ``errors``. State: ``clock`` (1,) samples heard, ``matrix`` (2, K, K), ``vectors``
    (4, K) correlation, weights and scratch, ``errors`` (K,), ``scale_state`` (scales,),
    ``log_weights`` (scales,).
    """
    experts, scales = means.shape[1], len(rates)
    forgetting, ridge, memory, error_rate = knobs[0], knobs[1], knobs[2], knobs[3]
    covariance, factor = matrix[0], matrix[1]
    correlation, w, scratch, d = vectors[0], vectors[1], vectors[2], vectors[3]
    trial = np.empty((experts, experts))
    for t in range(len(x)):
        base = 0.0
        for k in range(experts):
            base += means[t, k]
            out_errors[t, k] = errors[k]
        base /= experts
        location = base
        for k in range(experts):
            d[k] = means[t, k] - base
            location += w[k] * d[k]
        location = min(max(location, LOWEST), HIGHEST)
        out_mean[t] = location

        top = log_weights[0]
        for j in range(scales):
            top = max(top, log_weights[j])
            out_scales[t, j] = scale_state[j]
        total = 0.0
        for j in range(scales):
            out_weights[t, j] = math.exp(log_weights[j] - top) + 1e-6
            total += out_weights[t, j]
        for j in range(scales):
            out_weights[t, j] /= total

        # Learn.
        error = abs(x[t] - location)
        warm = 1.0 / (clock[0] + 2.0)
        for j in range(scales):
            s = max(scale_state[j] / LOGISTIC_MEAN_ABS, 0.02)
            upper = 1.0 / (1.0 + math.exp(min((error - 0.5) / s, 500.0)))
            lower = 1.0 / (1.0 + math.exp(min((error + 0.5) / s, 500.0)))
            mass = upper - lower if error > 0.5 else 1.0 - lower - (1.0 - upper)
            log_weights[j] = memory * (log_weights[j] - top) + math.log(mass + 1e-9)
            scale_state[j] += max(rates[j], warm) * (error - scale_state[j])
        for k in range(experts):
            e = abs(x[t] - means[t, k])
            errors[k] += max(error_rate, warm) * (e - errors[k])
        # Samples count by the inverse of the running variance: loud passages do not rule.
        level = scale_state[scales // 2]
        importance = 1.0 / (level * level + 0.1)
        y = (x[t] - base) * importance
        for i in range(experts):
            correlation[i] = forgetting * correlation[i] + d[i] * y
            c = d[i] * importance
            for j in range(i + 1):
                covariance[i, j] = forgetting * covariance[i, j] + c * d[j]
        clock[0] += 1
        if clock[0] % 16 == 0:
            for i in range(experts):
                for j in range(i):
                    trial[i, j] = covariance[i, j]
                trial[i, i] = covariance[i, i] + ridge
            if cholesky_solve(trial, correlation, factor, scratch):
                for i in range(experts):
                    w[i] = scratch[i]

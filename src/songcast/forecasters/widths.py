"""Turns a point prediction into a distribution: how wide has the error been lately?

Running means of |error| at several speeds give logistic components around the prediction;
their weights follow each component's own recent code length (Bayesian averaging with
forgetting: Herbster & Warmuth, "Tracking the best expert", 1998).
"""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from songcast.forecasters.mixture import (
    HIGHEST,
    LOWEST,
    MAX_SCALE_LSB,
    MIN_SCALE_LSB,
    UNIFORM_SHARE,
    VALUES,
    Mixture,
)

SPEEDS = np.array([1 / 16, 1 / 64, 1 / 256, 1 / 1024])
FORGETTING = 0.98
START_SCALE_LSB = 64.0
# E|x| of a logistic distribution is 2 ln 2 times its scale.
SCALE_PER_MEAN_ABS = 1.0 / (2.0 * math.log(2.0))


class RunningWidths:
    """Distributions around given predictions, widths learned from the past errors.

    One component per speed; state is carried from call to call, chunked equals whole.
    """

    def __init__(self, channels: int) -> None:
        self._scales = np.full((channels, len(SPEEDS)), START_SCALE_LSB)
        self._log_weights = np.zeros((channels, len(SPEEDS)))

    def hear(self, samples: NDArray[np.int16], means: NDArray[np.float64]) -> Mixture:
        """Return the mixtures around ``means``, then learn from the errors.

        ``samples`` (frames, channels) int16; ``means`` (frames, channels) float64 in LSB.
        """
        means = np.clip(means, LOWEST, HIGHEST)
        shape = (*samples.shape, len(SPEEDS))
        weights, scales = np.empty(shape), np.empty(shape)
        _run(samples, means, self._scales, self._log_weights, weights, scales)
        locations = np.broadcast_to(means[..., None], shape)
        return Mixture(weights=weights, locations=locations, scales=scales)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _run(  # type: ignore[no-untyped-def]
    samples, means, running, log_weights, weights, scales
) -> None:
    frames, channels = samples.shape
    components = running.shape[1]
    for t in range(frames):
        for c in range(channels):
            error = samples[t, c] - means[t, c]
            best = log_weights[c].max()
            total = 0.0
            for j in range(components):
                weights[t, c, j] = math.exp(log_weights[c, j] - best)
                total += weights[t, c, j]
            distance = -abs(error)
            for j in range(components):
                weights[t, c, j] /= total
                s = min(max(running[c, j], MIN_SCALE_LSB), MAX_SCALE_LSB)
                scales[t, c, j] = s
                upper = 1.0 / (1.0 + math.exp(min(-(distance + 0.5) / s, 700.0)))
                lower = 1.0 / (1.0 + math.exp(min(-(distance - 0.5) / s, 700.0)))
                mass = max(upper - lower, UNIFORM_SHARE / VALUES)
                log_weights[c, j] = FORGETTING * (log_weights[c, j] - best) + math.log(mass)
                target = abs(error) * SCALE_PER_MEAN_ABS
                running[c, j] += SPEEDS[j] * (target - running[c, j])

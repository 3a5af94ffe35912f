"""The compiled loops of the adaptive stages behind the network."""

import numpy as np
from numpy.typing import NDArray

from songcast.forecasting.compiled import compiled
from songcast.forecasting.distribution_kernels import (
    HIGHEST,
    LOWEST,
    MAX_SCALE_LSB,
    MIN_SCALE_LSB,
    code_length,
)

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


# The filters should not fit the rare errors that are larger, in widths.
MAX_ERROR = 3.0
MIN_WIDTH_LSB = 0.05
# Of the log odds of the averaged models.
FORGETTING = 0.995


@compiled
def normalise(x: F64, weights: F64, locations: F64, scales: F64, width: F64, error: F32) -> None:
    """Write the width of each mixture in LSB, and the error of its mean in widths.

    ``x``, ``width``, ``error``: (channels, frames); ``weights``, ``locations``, ``scales``:
    (channels, frames, M), clipped here to the valid range.
    """
    for c in range(x.shape[0]):
        for t in range(x.shape[1]):
            centre, spread = 0.0, MIN_WIDTH_LSB
            for j in range(weights.shape[2]):
                location = min(max(locations[c, t, j], LOWEST), HIGHEST)
                scale = min(max(scales[c, t, j], MIN_SCALE_LSB), MAX_SCALE_LSB)
                locations[c, t, j], scales[c, t, j] = location, scale
                centre += weights[c, t, j] * location
                spread += weights[c, t, j] * scale
            width[c, t] = spread
            error[c, t] = min(max((x[c, t] - centre) / spread, -MAX_ERROR), MAX_ERROR)


@compiled
def average(
    means: F64,
    lows: F64,
    masses: F64,
    log_odds: F64,
    shares: F64,
    mean: F64,
    low: F64,
    mass: F64,
) -> None:
    """Average distributions of one channel by their recent code lengths, see ``ModelAveraging``.

    ``means``, ``lows``, ``masses``: (models, frames), see ``distribution_kernels.measure``.
    State: ``log_odds`` (models,) in bits. Output: ``shares`` (frames, models) and ``mean``,
    ``low``, ``mass`` (frames,) of the average.
    """
    models = len(log_odds)
    for t in range(len(mean)):
        top = log_odds[0]
        for k in range(models):
            top = max(top, log_odds[k])
        total = 0.0
        for k in range(models):
            shares[t, k] = 2.0 ** (log_odds[k] - top)
            total += shares[t, k]
        mean[t], low[t], mass[t] = 0.0, 0.0, 0.0
        for k in range(models):
            shares[t, k] /= total
            mean[t] += shares[t, k] * means[k, t]
            low[t] += shares[t, k] * lows[k, t]
            mass[t] += shares[t, k] * masses[k, t]
            log_odds[k] = FORGETTING * (log_odds[k] - top) - code_length(masses[k, t])

"""The compiled code lengths of mixtures of discretised logistics."""

import math

import numpy as np
from numpy.typing import NDArray

from songcast.forecasting.compiled import compiled, inlined

F64 = NDArray[np.float64]

# The range of int16, and the number of its values.
LOWEST, HIGHEST = -32768.0, 32767.0
VALUES = 65536
# The share of a uniform distribution, which keeps every mass above zero.
UNIFORM_SHARE = 2.0**-16
MIN_SCALE_LSB, MAX_SCALE_LSB = 0.02, 32768.0


@inlined
def logistic(x: float, location: float, scale: float) -> tuple[float, float]:
    """Return the CDF at x - 1/2 and the mass of ``x`` under one discretised logistic.

    Both tails keep their precision. With e = exp(-|x - location| / scale) and h = exp(-1 / (2
    scale)), the CDF at the edge nearer to the location is 1 / (1 + e / h) or its complement, so
    two exponentials are enough. The two outermost values take the tails.
    """
    distance = x - location
    e = math.exp(-abs(distance) / scale)
    h = math.exp(-0.5 / scale)
    # The tails beyond the far and the near edge of the value, seen from the location.
    far = e * h / (1.0 + e * h)
    near = e / (h + e)
    mass = e * (1.0 - h * h) / ((1.0 + e * h) * (h + e))
    low = 1.0 - near if distance > 0.0 else far
    if x <= LOWEST:
        mass = 1.0 - far if distance > 0.0 else near
        low = 0.0
    elif x >= HIGHEST:
        mass = near if distance > 0.0 else 1.0 - far
    return low, mass


@inlined
def code_length(mass: float) -> float:
    """Return the bits of a value with this ``mass``, of which a small part is uniform."""
    return -math.log2((1.0 - UNIFORM_SHARE) * mass + UNIFORM_SHARE / VALUES)


@compiled
def measure(
    x: F64, weights: F64, locations: F64, scales: F64, moves: F64, mean: F64, low: F64, mass: F64
) -> None:
    """Write the mean, and the CDF at x - 1/2 and the mass of each sample, of one channel.

    ``weights``, ``locations``, ``scales``: (frames, M). ``moves`` (frames, 2): a shift of all
    locations in LSB, and a factor of all scales. The other arrays are (frames,).
    """
    for t in range(len(x)):
        centre, lower, total = 0.0, 0.0, 0.0
        for j in range(weights.shape[1]):
            location = min(max(locations[t, j] + moves[t, 0], LOWEST), HIGHEST)
            scale = min(max(scales[t, j] * moves[t, 1], MIN_SCALE_LSB), MAX_SCALE_LSB)
            below, own = logistic(x[t], location, scale)
            centre += weights[t, j] * location
            lower += weights[t, j] * below
            total += weights[t, j] * own
        mean[t], low[t], mass[t] = centre, lower, total

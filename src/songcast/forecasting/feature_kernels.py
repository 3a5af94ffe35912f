"""The compiled loop that computes the network's inputs."""

import math

import numpy as np
from numpy.typing import NDArray

from songcast.forecasting.compiled import compiled

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
# The unit is a running scale, at least this.
MIN_UNIT_LSB = 0.3
# Larger differences of an expert from the stacked mean, in units, carry no further information.
MAX_DIFFERENCE = 8.0


@compiled
def extract(
    x: F64,
    mean: F64,
    scale: F64,
    means: F32,
    errors: F32,
    position: int,
    sums: F64,
    recent: F32,
    unit: F32,
    squashed: F32,
    side: F32,
    summary: F32,
) -> None:
    """Write the features of one block, see ``features.FeatureExtractor``.

    ``x``, ``mean``, ``scale`` (channels, frames); ``means``, ``errors`` (channels, frames,
    experts). ``position``: frames since the last step ended. State: ``sums`` (channels, experts +
    1) and ``recent`` (channels, step), of the step that is not complete. The rest is output.
    """
    channels, frames, experts = means.shape
    step, half = recent.shape[1], 2 * experts + recent.shape[1] + 2
    place, row = position, 0
    for t in range(frames):
        for c in range(channels):
            lsb = max(scale[c, t], MIN_UNIT_LSB)
            r = (x[c, t] - mean[c, t]) / lsb
            unit[c, t] = lsb
            recent[c, place] = squashed[c, t] = math.asinh(r)
            per_unit = 1.0 / lsb
            for k in range(experts):
                d = (means[c, t, k] - mean[c, t]) * per_unit
                d = min(max(d, -MAX_DIFFERENCE), MAX_DIFFERENCE)
                side[c, t, k] = d
                sums[c, k] += recent[c, place] * d
            sums[c, experts] += abs(x[c, t])
            # Causality permits the second channel to use the first channel's current sample.
            side[c, t, experts] = recent[0, place] if c == 1 else 0.0
            side[c, t, experts + 1] = c
            side[c, t, experts + 2] = channels - 1
            side[c, t, experts + 3] = math.log2(lsb) / 8.0
        place += 1
        if place < step:
            continue
        for c in range(channels):
            out = summary[c, row]
            for i in range(half, 2 * half):
                out[i] = 0.0
            for k in range(experts):
                out[k] = sums[c, k] / step
                out[experts + k] = math.log2((errors[c, t, k] + 0.1) / (unit[c, t] + 0.1))
                sums[c, k] = 0.0
            for i in range(step):
                out[2 * experts + i] = recent[c, i]
            out[half - 2] = math.log2(unit[c, t]) / 8.0
            out[half - 1] = math.log2(1.0 + sums[c, experts] / step) / 8.0
            out[2 * half] = c
            out[2 * half + 1] = channels - 1
            sums[c, experts] = 0.0
        if channels == 2:
            for i in range(half):
                summary[0, row, half + i] = summary[1, row, i]
                summary[1, row, half + i] = summary[0, row, i]
        place = 0
        row += 1

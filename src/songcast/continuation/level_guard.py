"""The level guard keeps a continuation near the level of the end of the song.

It measures the level of the output over the last seconds. Where the level leaves the range that
the song itself has, a slow gain brings it back; it is slow so that it does not flatten beats.
"""

import math

import numpy as np
from numpy.typing import NDArray

from songcast.continuation.conditioning import PASSAGE_SECONDS, Prompt

F64 = NDArray[np.float64]

# Time constant of the level measurement.
SECONDS = 0.75
# Limits of the allowed range on either side, and of the correction.
LEAST_DB, MOST_DB = 1.0, 3.0
STRONGEST_DB = 15.0
# Share of the gain change that is applied in each block.
CORRECTION_SHARE = 0.5


class LevelGuard:
    """Keeps the level of the rows of one continuation, block by block."""

    def __init__(self, prompt: Prompt) -> None:
        rows = prompt.rows
        passage = rows.between(max(rows.stop - rows.frames(PASSAGE_SECONDS), 0), rows.stop)
        block = rows.block
        powers = [_power(passage[:, i : i + block]) for i in range(0, passage.shape[1], block)]
        self._share = min(block / rows.frames(SECONDS), 1.0)
        self._power = float(np.mean(powers))
        self._target_db = _decibels(self._power)
        smoothed, levels = self._power, []
        for power in powers:
            smoothed += self._share * (power - smoothed)
            levels.append(abs(_decibels(smoothed) - self._target_db))
        self._range_db = min(max(float(np.mean(levels)), LEAST_DB), MOST_DB)
        self._gain_db = 0.0

    def apply(self, rows: F64) -> F64:
        """Return the block (rows, frames) in LSB, with the correcting gain applied."""
        self._power += self._share * (_power(rows) - self._power)
        over = _decibels(self._power) - self._target_db
        target = min(max(over, -self._range_db), self._range_db) - over
        target = min(max(target, -STRONGEST_DB), STRONGEST_DB)
        before = self._gain_db
        self._gain_db += CORRECTION_SHARE * (target - before)
        ramp = np.linspace(before, self._gain_db, rows.shape[1])
        return np.asarray(rows * 10.0 ** (ramp / 20.0))


def _power(rows: F64) -> float:
    return float(np.sum(np.mean(rows**2, axis=1)))


def _decibels(power: float) -> float:
    return 10.0 * math.log10(power + 0.01)

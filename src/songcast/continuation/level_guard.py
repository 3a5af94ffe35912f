"""The level guard: a continuation stays as loud as the song's end, give or take what it did there.

It measures what the filters give over the last seconds, and where that leaves the range which
the song itself keeps to, brings it back; slowly, so that no beat is flattened.
"""

import math

import numpy as np
from numpy.typing import NDArray

from songcast.continuation.conditioning import PASSAGE_SECONDS, Prompt

F64 = NDArray[np.float64]

# Levels are means over this long.
SECONDS = 0.75
# The range on either side is the song's own, within these bounds; so is the correction.
LEAST_DB, MOST_DB = 1.0, 3.0
STRONGEST_DB = 15.0
# How much of a wanted change comes in each block.
HASTE = 0.5


class LevelGuard:
    """Guards the rows of one continuation, block by block."""

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

    def keep(self, rows: F64) -> F64:
        """Return a block (rows, frames) in LSB at the level it may have."""
        self._power += self._share * (_power(rows) - self._power)
        over = _decibels(self._power) - self._target_db
        wanted = min(max(over, -self._range_db), self._range_db) - over
        wanted = min(max(wanted, -STRONGEST_DB), STRONGEST_DB)
        before = self._gain_db
        self._gain_db += HASTE * (wanted - before)
        ramp = np.linspace(before, self._gain_db, rows.shape[1])
        return np.asarray(rows * 10.0 ** (ramp / 20.0))


def _power(rows: F64) -> float:
    return float(np.sum(np.mean(rows**2, axis=1)))


def _decibels(power: float) -> float:
    return 10.0 * math.log10(power + 0.01)

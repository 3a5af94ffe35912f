"""The shape of the continuation network and the limits of a request; no heavy imports."""

import math
from dataclasses import dataclass

from songcast.errors import ContinuationError

# Limits of the log scales, in units of the level of an excitation.
MIN_LOG_SCALE, MAX_LOG_SCALE = -7.0, 4.0
# The head sees the passage from so many samples before the current one to so many after it.
AHEAD = 4
MAX_SECONDS = 3600.0


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """Shape of the network; the head sees ``look_back`` past samples."""

    look_back: int = 16
    slow_units: int = 32
    fast_units: int = 24
    head_units: tuple[int, int] = (24, 16)
    mixtures: int = 3
    negative_slope: float = 0.1

    @property
    def sight(self) -> int:
        """Number of samples that the head sees: its own past, and the passage around it."""
        return self.look_back + 2 * AHEAD


def check_request(seconds: float, temperature: float, seed: int) -> None:
    """Raise ``ContinuationError`` unless a continuation can be generated with these values."""
    if not (math.isfinite(seconds) and 0 < seconds <= MAX_SECONDS):
        raise ContinuationError(
            f"seconds is {seconds:g}: must be above 0 and at most {MAX_SECONDS:g}"
        )
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ContinuationError(f"temperature is {temperature:g}: must be 0 or more")
    if seed < 0:
        raise ContinuationError(f"seed is {seed}: must be 0 or more")

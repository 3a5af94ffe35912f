"""The shape of the level network and the limits of a request; no heavy imports."""

import math
from dataclasses import dataclass

from songcast.errors import ContinuationError

MAX_SECONDS = 3600.0
# A song needs so many frames to be continued.
MIN_FRAMES = 16


@dataclass(frozen=True, kw_only=True)
class LevelSettings:
    """Shape of the level network: LSTM ``units``, then a LeakyReLU layer of ``head_units``.

    ``passages``: number of retrieved passages that it reads.
    """

    units: int = 24
    head_units: int = 24
    negative_slope: float = 0.1
    passages: int = 32


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


def frames_of(seconds: float, sample_rate_hz: int) -> int:
    """Return the number of frames in ``seconds``, at least one."""
    return max(round(seconds * sample_rate_hz), 1)

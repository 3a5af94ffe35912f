"""What can be asked of a continuation."""

import math

from songcast.errors import ContinuationError

MAX_SECONDS = 3600.0


def check_request(seconds: float, temperature: float, seed: int) -> None:
    """Raise ``ContinuationError`` for what no song can be continued with."""
    if not (math.isfinite(seconds) and 0 < seconds <= MAX_SECONDS):
        raise ContinuationError(
            f"seconds is {seconds:g}: must be above 0 and at most {MAX_SECONDS:g}"
        )
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ContinuationError(f"temperature is {temperature:g}: must be a number from 0 upwards")
    if seed < 0:
        raise ContinuationError(f"seed is {seed}: must be a whole number from 0 upwards")

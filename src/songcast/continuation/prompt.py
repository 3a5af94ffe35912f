"""A song to be continued: its samples, the levels of its parts, and its retrieval index.

Also the limits of a request.
"""

import math

import numpy as np
from numpy.typing import NDArray

from songcast.continuation.levels import BANDS, band_levels, window_frames
from songcast.continuation.retrieval import Place, Retrieval, mono
from songcast.errors import ContinuationError

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

# Retrieval searches at most this much of the past.
LONGEST_SECONDS = 600.0
# A shorter song is extended backwards by its mirror image.
SHORTEST_SECONDS = 3.0
UNKNOWN_DISTANCE_DB = 20.0
# Passages end where the end of the song fades out: is so far below its last half minute.
FADED_DB, FADED_SECONDS, BEFORE_SECONDS = 12.0, 15.0, 30.0

MAX_SECONDS = 3600.0
# A song needs so many frames to be continued.
MIN_FRAMES = 16


class Prompt:
    """``samples``: (frames, channels) int16; without any frame, it is silence.

    ``stop``: the frame at which the song ends. ``last``: that at which it begins to fade out.
    """

    def __init__(self, samples: NDArray[np.int16], sample_rate_hz: int) -> None:
        kept = samples[max(len(samples) - round(LONGEST_SECONDS * sample_rate_hz), 0) :]
        if not len(kept):
            kept = np.zeros((1, samples.shape[1]), np.int16)
        shortest = round(SHORTEST_SECONDS * sample_rate_hz)
        while len(kept) < shortest:
            kept = np.concatenate([kept[::-1], kept])[-shortest:]
        self.samples = kept
        self.stop, self.channels = len(kept), int(kept.shape[1])
        self.sample_rate_hz = sample_rate_hz
        self.hop = window_frames(sample_rate_hz) // 2
        self.hops_per_second = sample_rate_hz / self.hop
        self.retrieval = Retrieval(kept, sample_rate_hz)
        self.last = self._fade()

    def between(self, start: int, stop: int) -> F64:
        """Return the frames [start, stop), (frames, channels) float64; zero outside the song."""
        inside = self.samples[max(start, 0) : max(stop, 0)].astype(np.float64)
        before = min(max(-start, 0), stop - start)
        return np.pad(inside, ((before, stop - start - before - len(inside)), (0, 0)))

    def levels(self, frame: int, first: int, count: int) -> F32:
        """Return the levels of the hops [first, first + count) after ``frame``.

        (count, bands) float32 in dB, NaN for windows that are not inside the song.
        """
        start = frame + first * self.hop
        skipped = max(-(start // self.hop), 0)
        begin = start + skipped * self.hop
        stop = min(start + (count + 1) * self.hop, self.stop)
        found = np.full((count, BANDS), np.nan, np.float32)
        levels = band_levels(mono(self.samples[begin : max(stop, begin)]), self.sample_rate_hz)
        found[skipped : skipped + len(levels)] = levels[: max(count - skipped, 0)]
        return found

    def _fade(self) -> int:
        """Return the frame at which the song begins to fade out, or its end.

        At most ``FADED_SECONDS`` before the end, and at most an eighth of a short song.
        """
        rate, stop = self.sample_rate_hz, self.stop
        length = round(0.05 * rate)
        count = round(min(FADED_SECONDS * rate, stop / 8)) // length
        last = self.between(stop - count * length, stop).reshape(count, -1)
        before = np.mean(self.between(stop - round(BEFORE_SECONDS * rate), stop) ** 2)
        loud = np.flatnonzero(np.mean(last**2, axis=1) > before * 10.0 ** (-FADED_DB / 10.0))
        return stop - (count - 1 - int(loud[-1]) if len(loud) else count) * length

    def places(
        self, frame: int, count: int, visits: F64 | None = None, last: int | None = None
    ) -> list[Place]:
        """Return up to ``count`` places as ``Retrieval.find``, the best first, at least one."""
        found = self.retrieval.find(frame, count, visits, last=last)
        if not found:
            found = [Place(frame=frame // 2, distance_db=UNKNOWN_DISTANCE_DB)]
        return [self.retrieval.aligned(frame, place) for place in found]


def burg(signal: F64, order: int) -> F64:
    """Return the ``order`` coefficients that predict the next sample from the last ones.

    Burg's method (Burg, 1975); the filter is stable. Coefficient 0 is that of the last sample.
    """
    forward, backward = signal[1:].copy(), signal[:-1].copy()
    coefficients = np.zeros(0)
    for _ in range(min(order, len(signal) - 1)):
        power = float(forward @ forward + backward @ backward)
        k = 2.0 * float(forward @ backward) / (power + 1e-9)
        coefficients = np.append(coefficients - k * coefficients[::-1], k)
        forward, backward = (forward - k * backward)[1:], (backward - k * forward)[:-1]
    return coefficients


def extrapolated(signal: F64, order: int, frames: int) -> F64:
    """Return the next ``frames`` of ``signal`` (past,) by linear prediction without input."""
    from scipy.signal import lfilter

    coefficients = burg(signal, order)
    denominator = np.concatenate([[1.0], -coefficients])
    order = len(coefficients)
    if order == 0:
        return np.zeros(frames)
    # The state of the filter after the signal: direct form II transposed.
    last = signal[::-1][:order]
    state = np.array([coefficients[i:] @ last[: order - i] for i in range(order)])
    return np.asarray(lfilter([1.0], denominator, np.zeros(frames), zi=state)[0])


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

"""Retrieval: earlier places of a song that resemble a given place.

Places are compared by levels in bands of equal width in pitch, so that harmony and rhythm both
count, over the last seconds. The best places are then aligned by the waveform.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

BANDS = 48
LOWEST_HZ, HIGHEST_HZ = 50.0, 16000.0
FLOOR_DB = -70.0
HOP_SECONDS = 0.023
# Length of the compared past; older hops have less weight.
CONTEXT_SECONDS = 3.0
RECENT_SECONDS = 1.0
# A place has at least this much song after it, and is at least this far from the query.
FOLLOW_SECONDS = 4.0
APART_SECONDS = 1.0
# The waveforms are aligned within this distance, over this length.
ALIGN_SECONDS, ALIGNED_SECONDS = 0.03, 0.1
# Places within this factor of the lowest cost are compared by waveform.
NEAR_BEST = 1.15


@dataclass(frozen=True, kw_only=True)
class Place:
    """A retrieved place: its ``frame`` and its distance to the query in dB per band."""

    frame: int
    distance_db: float


class Retrieval:
    """The retrieval index of a song; ``signal``: (frames,) float64 in LSB, its main row."""

    def __init__(self, signal: F64, sample_rate_hz: int) -> None:
        self._signal = signal
        self._rate_hz = sample_rate_hz
        self._hop = power_of_two(HOP_SECONDS * sample_rate_hz)
        self._bands = band_levels_db(signal, sample_rate_hz, self._hop)

    def no_visits(self) -> F64:
        """Return zero visits of each hop, the start of a continuation."""
        return np.zeros(len(self._bands))

    def find(self, frame: int) -> Place | None:
        """Return the place most similar to ``frame``; None if the song is too short."""
        return self._best(frame, self.no_visits(), None)

    def find_another(self, frame: int, visits: F64, rng: np.random.Generator) -> Place | None:
        """Return a random place of the most similar ones; visited places are less likely.

        ``visits`` (see ``no_visits``) is updated in place.
        """
        return self._best(frame, visits, rng)

    def _best(self, frame: int, visits: F64, rng: np.random.Generator | None) -> Place | None:
        # A window of four hops must not reach beyond the end of the song.
        known = len(self._signal) // self._hop - 2
        now = min(frame // self._hop, known)
        distances, hops = self._distances(now, known)
        if not len(distances):
            return None
        cost = distances * (1.0 + visits[hops])
        found = _lowest(cost, self._hops(APART_SECONDS) // 2 if rng else 1)
        if rng is not None:
            found = [int(rng.choice(found))]
        # Among places of nearly the same cost, take the one whose waveform fits best.
        near = [i for i in found if cost[i] <= NEAR_BEST * cost[found[0]]]
        places = [frame + int(hops[i] - now) * self._hop for i in near]
        aligned = [self._aligned(frame, place) for place in places]
        best = int(np.argmax([fit for _, fit in aligned]))
        hop = hops[near[best]]
        visits[max(hop - 2, 0) : hop + self._hops(FOLLOW_SECONDS)] += 0.5
        return Place(frame=aligned[best][0], distance_db=float(distances[near[best]]))

    def _hops(self, seconds: float) -> int:
        return max(round(seconds * self._rate_hz / self._hop), 1)

    def _distances(self, now: int, known: int) -> tuple[F64, NDArray[np.int64]]:
        """Return the distance in dB of hop ``now`` to each candidate hop, and the candidates."""
        length = known * self._hop / self._rate_hz
        follow = self._hops(min(FOLLOW_SECONDS, length / 4))
        context = self._hops(min(CONTEXT_SECONDS, length / 8))
        hops = np.arange(context, known - follow)
        hops = hops[np.abs(hops - now) >= self._hops(APART_SECONDS)]
        if not len(hops) or now < context:
            return np.empty(0), hops
        weights = np.exp(-np.arange(context) / self._hops(RECENT_SECONDS))
        total = np.zeros(len(hops))
        for back, weight in enumerate(weights):
            difference = self._bands[hops - back] - self._bands[now - back]
            total += weight * np.mean(np.abs(difference), axis=1)
        return total / np.sum(weights), hops

    def _aligned(self, frame: int, place: int) -> tuple[int, float]:
        """Return ``place`` aligned to the waveform before ``frame``, and the correlation there."""
        length = int(ALIGNED_SECONDS * self._rate_hz)
        reach = int(ALIGN_SECONDS * self._rate_hz)
        first = max(place - length - reach, 0)
        last = min(place + reach, len(self._signal))
        pattern = self._signal[max(frame - length, 0) : frame]
        field = self._signal[first:last]
        if len(pattern) < length or len(field) <= length:
            return place, 0.0
        size = len(field) + length
        spectrum = np.fft.rfft(field, size) * np.conj(np.fft.rfft(pattern, size))
        products = np.fft.irfft(spectrum, size)[: len(field) - length + 1]
        energy = np.cumsum(np.concatenate([[0.0], field**2]))
        power = energy[length:] - energy[:-length]
        least = 1e-3 * np.mean(power) + 1e-9
        fit = products / np.sqrt((power + least) * (np.sum(pattern**2) + least))
        best = int(np.argmax(fit))
        return first + length + best, float(fit[best])


def band_levels_db(signal: F64, sample_rate_hz: int, hop: int) -> F32:
    """Return (hops, BANDS) float32: levels in dB, at most ``FLOOR_DB`` below the loudest.

    Row i is centred on frame i * hop, within two hops of it.
    """
    size = 4 * hop
    window = np.hanning(size).astype(np.float32)
    padded = np.concatenate([np.zeros(size // 2), signal, np.zeros(size // 2)])
    rows = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    filters = _filters(size, sample_rate_hz)
    levels = np.empty((len(rows), BANDS), np.float32)
    for first in range(0, len(rows), 256):
        block = rows[first : first + 256].astype(np.float32) * window
        power = np.abs(np.fft.rfft(block)).astype(np.float32) ** 2
        levels[first : first + 256] = power @ filters
    top = max(float(np.max(levels, initial=0.0)), 1e-9)
    decibels = 10.0 * np.log10(levels / top + 1e-12)
    return np.asarray(np.maximum(decibels, FLOOR_DB), np.float32)


def _filters(size: int, sample_rate_hz: int) -> F32:
    """Triangular bands, equally wide in pitch: (size // 2 + 1, BANDS) float32."""
    bins = np.arange(size // 2 + 1) * sample_rate_hz / size
    edges = np.geomspace(LOWEST_HZ, min(HIGHEST_HZ, 0.48 * sample_rate_hz), BANDS + 2)
    # A band spans at least one bin on either side.
    width = sample_rate_hz / size
    lower = np.minimum(edges[:-2], edges[1:-1] - width)
    upper = np.maximum(edges[2:], edges[1:-1] + width)
    rise = (bins[:, None] - lower) / (edges[1:-1] - lower)
    fall = (upper - bins[:, None]) / (upper - edges[1:-1])
    filters = np.maximum(np.minimum(rise, fall), 0.0)
    return np.asarray(filters / np.maximum(filters.sum(0), 1e-9), np.float32)


def _lowest(cost: F64, apart: int, count: int = 4) -> list[int]:
    """Indices of the ``count`` lowest costs, at least ``apart`` from each other."""
    found: list[int] = []
    for index in np.argsort(cost, kind="stable"):
        if all(abs(int(index) - other) >= apart for other in found):
            found.append(int(index))
            if len(found) == count:
                break
    return found


def power_of_two(value: float) -> int:
    """Return the power of two nearest to ``value`` in ratio, at least 16."""
    return int(max(2 ** round(np.log2(max(value, 1.0))), 16))

"""Retrieval: places of a song that resemble a given place.

Places are compared by levels in bands of equal width in pitch, so that harmony and rhythm both
count, over the last seconds. The best places are then aligned by the waveform.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from songcast.continuation.levels import power_of_two
from songcast.data.corpus import drop_pages

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Samples = NDArray[np.int16]

BANDS = 48
LOWEST_HZ, HIGHEST_HZ = 50.0, 16000.0
FLOOR_DB = -70.0
# The spectra have windows of twice this length.
HOP_SECONDS = 0.046
# Length of the compared past; older hops have less weight.
CONTEXT_SECONDS = 3.0
RECENT_SECONDS = 1.0
# A place has at least this much song after it, and is at least this far from the query. In a short
# song these are at most a quarter of it.
FOLLOW_SECONDS = 6.0
APART_SECONDS = 1.0
# The waveforms are aligned within this distance, over this length.
ALIGN_SECONDS, ALIGNED_SECONDS = 0.03, 0.1

# Each visit makes a place so much farther, as a share of its distance.
VISIT = 0.5


@dataclass(frozen=True, kw_only=True)
class Place:
    """A retrieved place: its ``frame`` and its distance to the query in dB per band."""

    frame: int
    distance_db: float


class Retrieval:
    """The retrieval index of a song; ``samples``: (frames, channels) int16."""

    def __init__(self, samples: Samples, sample_rate_hz: int) -> None:
        self._samples = samples
        self._rate_hz = sample_rate_hz
        self._hop = power_of_two(HOP_SECONDS * sample_rate_hz)
        self._bands = pitch_levels(samples, sample_rate_hz, self._hop)
        # A window must not reach beyond the end of the song.
        self._known = max(len(samples) // self._hop - 1, 0)

    def no_visits(self) -> F64:
        """Return zero visits of each hop, the start of a continuation."""
        return np.zeros(len(self._bands))

    def visit(self, visits: F64, start: int, stop: int) -> None:
        """Count the frames [start, stop) as visited, in place."""
        visits[max(start // self._hop, 0) : max(stop // self._hop, 0)] += VISIT

    def find(
        self,
        frame: int,
        count: int,
        visits: F64 | None = None,
        until: int | None = None,
        last: int | None = None,
    ) -> list[Place]:
        """Return up to ``count`` places, the most similar to ``frame`` first, by cost.

        ``visits``: visited places cost more. ``until``: where the true continuation is known up
        to this frame, as in training, places whose past or next frames are in it are excluded.
        ``last``: what follows a place must not reach beyond this frame, by default the last one.
        """
        now = min(frame // self._hop, self._known)
        distances, hops = self._distances(now, until, last)
        cost = distances if visits is None else distances * (1.0 + visits[hops])
        apart = max(self._hops(APART_SECONDS) // 2, 1)
        return [
            Place(frame=frame + int(hops[i] - now) * self._hop, distance_db=float(distances[i]))
            for i in _lowest(cost, apart, count)
        ]

    def _hops(self, seconds: float) -> int:
        return max(round(seconds * self._rate_hz / self._hop), 1)

    def _distances(
        self, now: int, until: int | None, last: int | None
    ) -> tuple[F64, NDArray[np.int64]]:
        """Return the distance in dB of hop ``now`` to each candidate hop, and the candidates."""
        length = self._known * self._hop / self._rate_hz
        context = self._hops(min(CONTEXT_SECONDS, length / 8))
        follow = self._hops(min(FOLLOW_SECONDS, length / 4))
        apart = self._hops(min(APART_SECONDS, length / 4))
        known = self._known if last is None else min(self._known, last // self._hop)
        hops = np.arange(context, known - follow)
        hops = hops[np.abs(hops - now) >= apart]
        if until is not None:
            hops = hops[(hops < now - follow) | (hops - context > until // self._hop)]
        if not len(hops) or now < context:
            return np.empty(0), hops[:0]
        weights = np.exp(-np.arange(context) / self._hops(RECENT_SECONDS))
        total = np.zeros(len(hops), np.float32)
        for back, weight in enumerate(weights):
            difference = self._bands[hops - back] - self._bands[now - back]
            total += np.float32(weight / BANDS) * np.abs(difference).sum(axis=1)
        return total / np.sum(weights), hops

    def aligned(self, frame: int, place: Place) -> Place:
        """Return ``place`` moved to where its waveform fits the one before ``frame`` best."""
        length = int(ALIGNED_SECONDS * self._rate_hz)
        reach = int(ALIGN_SECONDS * self._rate_hz)
        first = max(place.frame - length - reach, 0)
        last = min(place.frame + reach, len(self._samples))
        pattern = mono(self._samples[max(frame - length, 0) : frame]).astype(np.float64)
        field = mono(self._samples[first:last]).astype(np.float64)
        if len(pattern) < length or len(field) <= length:
            return place
        size = 2 ** int(np.ceil(np.log2(len(field))))
        spectrum = np.fft.rfft(field, size) * np.conj(np.fft.rfft(pattern, size))
        products = np.fft.irfft(spectrum, size)[: len(field) - length + 1]
        energy = np.cumsum(np.concatenate([[0.0], field**2]))
        power = energy[length:] - energy[:-length]
        least = 1e-3 * np.mean(power) + 1e-9
        best = int(np.argmax(products / np.sqrt(power + least)))
        return Place(frame=first + length + best, distance_db=place.distance_db)


def mono(samples: Samples) -> F32:
    """Return the mean of one or two channels, (frames,) float32."""
    mean = np.add(samples[:, 0], samples[:, -1], dtype=np.float32) * np.float32(0.5)
    drop_pages(samples)
    return mean


def pitch_levels(samples: Samples, sample_rate_hz: int, hop: int) -> F32:
    """Return (hops, BANDS) float32: levels in dB, at most ``FLOOR_DB`` below the loudest.

    Row i is centred on frame i * hop, within one hop of it.
    """
    size = 2 * hop
    window = np.hanning(size).astype(np.float32)
    filters = _filters(size, sample_rate_hz)
    levels = np.empty((len(samples) // hop + 1, BANDS), np.float32)
    for first in range(0, len(levels), 64):
        count = min(64, len(levels) - first)
        start, stop = (first - 1) * hop, (first + count) * hop
        part = mono(samples[max(start, 0) : stop])
        before = max(-start, 0)
        part = np.pad(part, (before, stop - start - before - len(part)))
        rows = np.lib.stride_tricks.sliding_window_view(part, size)[::hop]
        spectrum = np.fft.rfft(rows * window)
        levels[first : first + count] = (spectrum.real**2 + spectrum.imag**2) @ filters
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


def _lowest(cost: F64, apart: int, count: int) -> list[int]:
    """Indices of the ``count`` lowest costs, at least ``apart`` from each other."""
    found: list[int] = []
    for index in np.argsort(cost, kind="stable"):
        if all(abs(int(index) - other) >= apart for other in found):
            found.append(int(index))
            if len(found) == count:
                break
    return found

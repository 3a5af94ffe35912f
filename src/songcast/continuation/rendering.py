"""Rendering: passages of the song joined without a seam, and shaped by a gain per band."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from songcast.continuation.levels import BANDS, mel_edges_hz
from songcast.continuation.prompt import Prompt
from songcast.continuation.retrieval import VISIT, Place

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

# Hops per block: everything is computed block by block.
BLOCK_HOPS = 16
# Windows in which the gain is applied, in each hop.
PER_HOP = 2
# Length of a cross-fade between two passages.
FADE_HOPS = 12
PEAK = 32767.0


class Path:
    """The way of a continuation through the song: passages, one after the other.

    ``places``: the current candidates; they match the song at hop ``matched`` of the
    continuation. The first one is followed. ``joins``: the hops at which passages changed.
    """

    def __init__(
        self, prompt: Prompt, count: int, temperature: float, rng: np.random.Generator
    ) -> None:
        self._prompt, self._count = prompt, count
        self._temperature, self._rng = temperature, rng
        self._visits = prompt.retrieval.no_visits()
        self._block = 0
        self.joins: list[int] = []
        self._match(prompt.stop)

    def block(self) -> F64:
        """Return the next block, (BLOCK_HOPS * hop, channels) float64."""
        prompt, first = self._prompt, self._block * BLOCK_HOPS
        frames = BLOCK_HOPS * prompt.hop
        self._block += 1
        position = self.places[0].frame + (first - self.matched) * prompt.hop
        block = prompt.between(position, position + frames)
        # A song that is cut in a pause may go on from its quiet end; then that is followed.
        last = prompt.last if self.places[0].frame < prompt.last else prompt.stop
        if position + 2 * frames <= last:
            prompt.retrieval.visit(self._visits, position, position + frames)
            return block
        self._match(position)
        new = self.places[0].frame
        # Join where the two passages are most alike.
        before, after = (prompt.levels(frame, 0, BLOCK_HOPS) for frame in (position, new))
        unlike = np.abs(before - after).mean(axis=1)
        last = BLOCK_HOPS - FADE_HOPS
        fits = [np.mean(unlike[i : i + FADE_HOPS]) for i in range(last + 1)]
        start = int(np.nanargmin(fits)) if not np.all(np.isnan(fits)) else last
        self.joins.append(first + start)
        start *= prompt.hop
        stop = start + FADE_HOPS * prompt.hop
        following = prompt.between(new, new + frames)
        following[:start] = block[:start]
        following[start:stop] = cross_faded(block[start:stop], following[start:stop])
        return following

    def repeated_share(self) -> float:
        """Return the share of the passages so far that had been used before, 0 to 1."""
        visits = self._visits / VISIT
        return float(np.sum(np.maximum(visits - 1.0, 0.0)) / max(np.sum(visits), 1.0))

    def _match(self, frame: int) -> None:
        """Find places that match ``frame`` of the song at the current block; choose the first."""
        last = self._prompt.last if self._block else None
        places = self._prompt.places(frame, self._count, self._visits, last)
        if self._temperature > 0:
            least = places[0].distance_db + 0.1
            # At temperature 1, a place that is a fifth farther is 7 times less likely.
            odds = np.exp(
                -10.0 * np.array([p.distance_db / least - 1.0 for p in places]) / self._temperature
            )
            chosen = int(self._rng.choice(len(places), p=odds / odds.sum()))
            places.insert(0, places.pop(chosen))
        self.places: list[Place] = places
        self.matched = (self._block - 1) * BLOCK_HOPS if self._block else 0


def cross_faded(before: F64, after: F64) -> F64:
    """Return a cross-fade of (frames, channels) signals; the level stays the same throughout."""
    rise = 0.5 - 0.5 * np.cos(np.pi * (np.arange(len(before)) + 0.5) / len(before))
    norm = np.sqrt(np.sum(before**2) * np.sum(after**2))
    alike = max(float(np.sum(before * after) / norm), 0.0) if norm > 0 else 1.0
    power = rise**2 + (1.0 - rise) ** 2 + 2.0 * alike * rise * (1.0 - rise)
    mixed = after * rise[:, None] + before * (1.0 - rise)[:, None]
    return np.asarray(mixed / np.sqrt(power)[:, None])


class Shaper:
    """A gain per band that changes over time; zero gain returns the signal itself.

    Windows are two hops long and begin ``PER_HOP`` times in each. ``signal``: (4 hops, channels),
    of which the first two come before what is shaped; ``gains_db``: (2 PER_HOP, bands), of the
    windows that begin there.
    """

    def __init__(self, signal: F64, gains_db: F32, sample_rate_hz: int) -> None:
        self._hop = len(signal) // 4
        self._rate_hz = sample_rate_hz
        # The square root of a Hann window, before and after: the squares add up to PER_HOP.
        window = np.sqrt(np.hanning(2 * self._hop + 1)[:-1])
        self._window = (window / np.sqrt(PER_HOP))[:, None]
        self._tail = np.zeros((2 * self._hop, signal.shape[1]))
        self.shape(signal, gains_db)

    def shape(self, signal: F64, gains_db: F32) -> F64:
        """Return the signal (frames, channels), shaped, without its last two hops.

        These are the first ones of the next call. ``gains_db``: (windows, bands), of the windows
        that begin in the frames that are returned.
        """
        windows = np.lib.stride_tricks.sliding_window_view(signal, 2 * self._hop, axis=0)
        windows = windows[:: self._hop // PER_HOP][: len(gains_db)].transpose(0, 2, 1)
        gains = 10.0 ** (gains_db @ bins_of_bands(2 * self._hop, self._rate_hz) / 20.0)
        spectra = np.fft.rfft(windows * self._window, axis=1) * gains[:, :, None]
        shaped = np.zeros_like(signal)
        shaped[: 2 * self._hop] = self._tail
        for number, part in enumerate(np.fft.irfft(spectra, axis=1) * self._window):
            start = number * self._hop // PER_HOP
            shaped[start : start + 2 * self._hop] += part
        self._tail = shaped[-2 * self._hop :]
        return shaped[: -2 * self._hop]


@lru_cache(maxsize=8)
def bins_of_bands(size: int, sample_rate_hz: int) -> F32:
    """Return the weights (bands, size // 2 + 1) that interpolate between the bands' centres."""
    centres = mel_edges_hz(sample_rate_hz)[1:-1]
    bins = np.arange(size // 2 + 1) * sample_rate_hz / size
    return np.stack([np.interp(bins, centres, row) for row in np.eye(BANDS)]).astype(np.float32)


class Limiter:
    """Keeps a signal within ``PEAK``, hop by hop; a lower signal passes unchanged."""

    def __init__(self, hop: int, channels: int) -> None:
        self._hop = hop
        self._held = np.empty((0, hop, channels))
        self._gain = 1.0

    def limit(self, signal: F64, *, last: bool = False) -> F64:
        """Return the held hop and ``signal`` (frames, channels) but its last hop, which is held.

        With ``last``, nothing is held.
        """
        hops = np.concatenate([self._held, signal.reshape(-1, self._hop, signal.shape[1])])
        if not len(hops):
            return signal
        needed = np.minimum(PEAK / np.maximum(np.abs(hops).max(axis=(1, 2)), PEAK), 1.0)
        ends = np.minimum(needed, np.append(needed[1:], 1.0))
        begins = np.minimum(np.append(self._gain, ends[:-1]), needed)
        share = (np.arange(self._hop) + 0.5) / self._hop
        gains = begins[:, None] + (ends - begins)[:, None] * share
        done = len(hops) if last else len(hops) - 1
        self._held, self._gain = hops[done:], float(ends[done - 1]) if done else self._gain
        return np.asarray((hops * gains[:, :, None])[:done].reshape(-1, signal.shape[1]))

"""Conditioning of a continuation: for each block, the filters and a retrieved excitation.

A song ends at frame ``stop``. Up to there the filter is the one fitted to the last second of the
song. After it the filter follows the filters of the retrieved passage, so that the harmony
continues. The *excitation* of the retrieved passage (the passage after inverse filtering) is an
input of the network.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from songcast.continuation.features import SLOW
from songcast.continuation.lattice import Lattice, LatticeState
from songcast.continuation.retrieval import Retrieval, power_of_two
from songcast.forecasting.distribution import HIGHEST, LOWEST

F64 = NDArray[np.float64]

BLOCK_SECONDS = 0.093
# Length of the filters: a period of the lowest notes.
ORDER_SECONDS = 0.0116
MIN_ORDER, MAX_ORDER = 32, 1024
# A coefficient fitted on fewer frames than this is unreliable and makes the filter ring.
FRAMES_PER_STAGE = 4
SEED_SECONDS = 1.0
# The shortest song in which a window can be centred.
MIN_FRAMES = 2
# Retrieval searches at most this much of the past.
RETRIEVAL_SECONDS = 600.0
LEVEL_SECONDS, PASSAGE_SECONDS = 1.0, 10.0
MAX_GAIN = 2.0
# Length of the cross-fade between two passages, in blocks.
FADE_SHARE = 0.25


@dataclass(frozen=True, kw_only=True)
class Block:
    """The conditioning of one block.

    ``first``, ``last``: the filters at its two ends. ``excitation``: (rows, frames) float64, of
    the retrieved passage, near unit level. ``distance_db``: distance between the start of that
    passage and the prompt's end, None without a passage.
    """

    first: Lattice
    last: Lattice
    excitation: F64
    distance_db: float | None

    @property
    def nearness(self) -> tuple[float, float]:
        """Two inputs of the network: 1 if a passage was retrieved, and its distance in 10 dB."""
        return (0.0, 0.0) if self.distance_db is None else (1.0, self.distance_db / 10.0)


class Rows:
    """A song rotated so that its rows are uncorrelated: roughly sum and difference of the channels.

    ``samples`` (frames, channels) int16; ``rotation`` (rows, channels) is orthogonal.
    """

    def __init__(self, samples: NDArray[np.int16], sample_rate_hz: int, rotation: F64) -> None:
        self.samples = samples
        self.sample_rate_hz = sample_rate_hz
        self.rotation = rotation
        self.block = block_frames(sample_rate_hz)
        order = min(max(round(ORDER_SECONDS * sample_rate_hz), MIN_ORDER), MAX_ORDER)
        self.order = min(order, max(len(samples) // FRAMES_PER_STAGE, 1))

    def __len__(self) -> int:
        return len(self.rotation)

    @property
    def stop(self) -> int:
        """The frame at which the song ends."""
        return len(self.samples)

    def frames(self, seconds: float) -> int:
        """Return the number of frames."""
        return round(seconds * self.sample_rate_hz)

    def between(self, start: int, stop: int) -> F64:
        """Return the frames [start, stop) as (rows, frames) float64; zero outside the song."""
        inside = self.samples[max(start, 0) : max(stop, 0)]
        turned = self.rotation @ inside.T.astype(np.float64)
        before = min(max(-start, 0), stop - start)
        return np.pad(turned, ((0, 0), (before, stop - start - before - turned.shape[1])))

    def level(self, start: int, stop: int) -> float:
        """Return the RMS of all channels together in [start, stop), in LSB, at least 0.25."""
        part = self.samples[max(start, 0) : max(stop, 0)].astype(np.float64)
        return math.sqrt(float(np.mean(part**2)) if part.size else 0.0) + 0.25


class Prompt:
    """A song to be continued: its ``rows``, the filter of its end, and the retrieval index.

    ``samples``: (frames, channels) int16. A song of fewer than two frames is padded with silence.
    """

    def __init__(self, samples: NDArray[np.int16], sample_rate_hz: int) -> None:
        if len(samples) < MIN_FRAMES:
            samples = np.pad(samples, ((MIN_FRAMES - len(samples), 0), (0, 0)))
        kept = samples[max(len(samples) - round(RETRIEVAL_SECONDS * sample_rate_hz), 0) :]
        rotation = principal_axes(kept[-round(PASSAGE_SECONDS * sample_rate_hz) :])
        rows = Rows(kept, sample_rate_hz, rotation)
        self.rows = rows
        self.retrieval = Retrieval(rows.between(0, rows.stop)[0], sample_rate_hz)
        last = Passage(rows, rows.stop).filters(0)
        end = rows.between(max(rows.stop - rows.frames(SEED_SECONDS), 0), rows.stop)
        self.seed = Lattice.burg(end, rows.order).at_level(last.level)


def block_frames(sample_rate_hz: int) -> int:
    """Return the length of a block: a power of two, 512 to 16384 frames."""
    return max(power_of_two(BLOCK_SECONDS * sample_rate_hz), SLOW)


def principal_axes(samples: NDArray[np.int16]) -> F64:
    """Return the rotation (channels, channels) that makes the channels uncorrelated."""
    x = samples.astype(np.float64)
    _, vectors = np.linalg.eigh(x.T @ x)
    rotation = vectors[:, ::-1].T
    # The sign of an eigenvector is arbitrary: make its largest component positive.
    largest = rotation[np.arange(len(rotation)), np.argmax(np.abs(rotation), axis=1)]
    return np.ascontiguousarray(rotation * np.where(largest < 0, -1.0, 1.0)[:, None])


class Passage:
    """A passage processed block by block: block ``i`` begins at ``origin + i * block``."""

    def __init__(
        self, rows: Rows, origin: int, gain: float = 1.0, distance_db: float = 0.0
    ) -> None:
        self.origin, self.gain, self.distance_db = origin, gain, distance_db
        self._rows = rows
        self._state = LatticeState(len(rows), rows.order)
        self._filters: dict[int, Lattice] = {}

    def filters(self, index: int) -> Lattice:
        """Return the filters of the passage at the start of block ``index``."""
        if index not in self._filters:
            start = self.origin + index * self._rows.block
            half = min(2 * self._rows.block, self._rows.stop // 2)
            centre = max(min(start, self._rows.stop - half), half)
            lattice = Lattice.windowed(
                self._rows.between(centre - half, centre + half), self._rows.order
            )
            self._filters = {i: k for i, k in self._filters.items() if i >= index - 1}
            self._filters[index] = lattice.at_level(lattice.level * self.gain)
        return self._filters[index]

    def excitation(
        self, index: int, first_level: F64 | None = None, last_level: F64 | None = None
    ) -> F64:
        """Return the excitation of block ``index``, at the passage's or at given levels.

        Call it for consecutive blocks: the filters carry state.
        """
        first, last = self.filters(index), self.filters(index + 1)
        if first_level is not None:
            first = first.at_level(first_level)
        if last_level is not None:
            last = last.at_level(last_level)
        start = self.origin + index * self._rows.block
        signal = self._rows.between(start, start + self._rows.block) * self.gain
        return self._state.analyse(signal, first, last)


class Conditioning:
    """The conditioning blocks of one continuation; block 0 begins at the end of the prompt.

    ``rng`` chooses later passages. ``prompt_blocks``: number of blocks before the end.
    """

    def __init__(self, prompt: Prompt, rng: np.random.Generator, prompt_blocks: int) -> None:
        self._prompt, self._rows, self._rng = prompt, prompt.rows, rng
        self._index = -prompt_blocks
        self._visits = prompt.retrieval.no_visits()
        self._passage: Passage | None = None
        rows = self._rows
        self._target = rows.level(rows.stop - rows.frames(PASSAGE_SECONDS), rows.stop)
        place = prompt.retrieval.find(rows.stop)
        if place is not None:
            length = rows.frames(LEVEL_SECONDS)
            now = rows.level(rows.stop - length, rows.stop)
            then = rows.level(place.frame - length, place.frame)
            self._passage = Passage(rows, place.frame, _gain(now, then), place.distance_db)
            self._passage.excitation(self._index - 1)

    def __iter__(self) -> Iterator[Block]:
        return self

    def __next__(self) -> Block:
        """Return the next block."""
        index, rows = self._index, self._rows
        self._index += 1
        first, passage = self._filters(index), self._passage
        if passage is None:
            silence = np.zeros((len(rows), rows.block))
            return Block(first=first, last=first, excitation=silence, distance_db=None)
        excitation = passage.excitation(index)
        if passage.origin + (index + 2) * rows.block > rows.stop:
            passage, excitation = self._jump(passage, index, excitation)
        self._passage = passage
        return Block(
            first=first,
            last=self._filters(index + 1),
            excitation=excitation,
            distance_db=passage.distance_db,
        )

    def _filters(self, index: int) -> Lattice:
        if index <= 0 or self._passage is None:
            return self._prompt.seed
        return self._passage.filters(index)

    def _jump(self, old: Passage, index: int, before: F64) -> tuple[Passage, F64]:
        """Switch to another passage at block ``index``; return it and the cross-faded block."""
        rows, start = self._rows, index * self._rows.block
        place = self._prompt.retrieval.find_another(old.origin + start, self._visits, self._rng)
        if place is None:
            return old, before
        stop = min(place.frame + rows.frames(PASSAGE_SECONDS), rows.stop)
        gain = _gain(self._target, rows.level(place.frame, stop))
        new = Passage(rows, place.frame - start, gain, place.distance_db)
        new.excitation(index - 1)
        after = new.excitation(index)
        fade = np.minimum((np.arange(rows.block) + 0.5) / (rows.block * FADE_SHARE), 1.0)
        angle = fade * (math.pi / 2)
        return new, before * np.cos(angle) + after * np.sin(angle)


def _gain(target: float, level: float) -> float:
    return min(max(target / level, 1.0 / MAX_GAIN), MAX_GAIN)


def to_int16(samples: F64) -> tuple[NDArray[np.int16], int]:
    """Return the samples rounded and clipped to int16, and how many were clipped."""
    rounded = np.rint(samples)
    clipped = np.clip(rounded, LOWEST, HIGHEST)
    return clipped.astype(np.int16), int(np.count_nonzero(clipped != rounded))

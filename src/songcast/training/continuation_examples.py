"""Training examples of the continuation model: songs cut at many places.

An example is a song up to a cut, conditioned exactly as a continuation would be. The target is
the excitation that would drive the conditioning filters to give the true next seconds.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from songcast.continuation.conditioning import (
    Block,
    Conditioning,
    Passage,
    Prompt,
    Rows,
    block_frames,
)
from songcast.continuation.features import (
    AHEAD,
    FAST,
    FAST_FEATURES,
    SLOW,
    SLOW_FEATURES,
    all_features,
    all_sights,
    limited,
)
from songcast.data.corpus import PreparedSong
from songcast.errors import CorpusError
from songcast.forecasting.prefetch import prefetch

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

# A crop begins with the past of its first step and ends with what lies ahead of its last.
EDGES = 3
FIRST_STEP = SLOW
# A view is this many crops long: what is heard before its cut, what follows.
HEARD_CROPS, FOLLOWED_CROPS = 1, 2
# Cut earlier, a song has no memory worth learning with.
EARLIEST_SECONDS = 2.5
# The drift of the heard level while learning: a walk of this many dB per block.
DRIFT_DB = 1.5
WITHOUT_MEMORY = 0.15
# A crop answers for so many of its fast steps, drawn at random: the head costs most.
PICKED = 64


@dataclass(frozen=True, kw_only=True)
class View:
    """``own``, ``passage`` (rows, frames) float32: excitations, true and of the memory.

    ``nearness`` (blocks, 2) float32: 1 with a memory, and how unlike it is in 10 dB.
    ``block``: frames per block.
    """

    own: F32
    passage: F32
    nearness: F32
    block: int


def practice(
    songs: Sequence[tuple[PreparedSong, int]], count: int, crop_frames: int, threads: int
) -> tuple[list[View], list[View]]:
    """Return about ``count`` views to learn from, and one of each song to check with.

    ``songs``: with how many of their frames may be heard; what views follow lies within. The
    end of that, one view long, is for checking alone where there is room. Raises
    ``CorpusError`` where no song is long enough.
    """
    learned, checked = [], []
    share = max(count // max(len(songs), 1), 1)
    for song, frames in songs:
        length = Length.of(song.sample_rate_hz, crop_frames)
        last = frames - length.followed
        cuts = length.cuts(last, share)
        if cuts:
            checked.append((song, frames, last, length))
        learned += [(song, frames, cut, length) for cut in cuts or length.cuts(frames, share)]
    if not learned:
        raise CorpusError(
            "no song is long enough to practise continuing it: add longer songs, or make "
            "continuation.crop_steps in params.yaml smaller"
        )

    def work(job: tuple[PreparedSong, int, int, Length]) -> View:
        song, heard, cut, length = job
        # Opened here: a map of every song at once would be too many open files.
        return view(song.samples[:heard], song.sample_rate_hz, cut, length)

    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(work, [*learned, *checked]))
    return found[: len(learned)], found[len(learned) :]


@dataclass(frozen=True, kw_only=True)
class Length:
    """How long views are, in frames: ``heard`` before the cut, ``followed`` after it."""

    block: int
    heard: int
    followed: int
    earliest: int

    @classmethod
    def of(cls, sample_rate_hz: int, crop_frames: int) -> "Length":
        """Return the length for crops of ``crop_frames``, in whole blocks."""
        block = block_frames(sample_rate_hz)
        crop = -(-(crop_frames + EDGES * SLOW) // block) * block
        return cls(
            block=block,
            heard=HEARD_CROPS * crop,
            followed=FOLLOWED_CROPS * crop,
            earliest=round(EARLIEST_SECONDS * sample_rate_hz),
        )

    def cuts(self, frames: int, count: int) -> list[int]:
        """Return up to ``count`` cuts for views within the first ``frames``, spread evenly."""
        first, last = self.heard + self.block, frames - self.followed
        first = max(first, min(self.earliest, last))
        return (
            sorted({int(cut) for cut in np.linspace(first, last, count)}) if last >= first else []
        )


def view(samples: NDArray[np.int16], sample_rate_hz: int, cut: int, length: Length) -> View:
    """Return the view of (frames, channels) int16 ``samples`` cut at frame ``cut``."""
    heard, followed = length.heard // length.block, length.followed // length.block
    prompt = Prompt(samples[:cut], sample_rate_hz)
    conditioning = Conditioning(prompt, np.random.default_rng(cut), heard)
    true = Passage(Rows(samples, sample_rate_hz, prompt.rows.rotation), cut)
    true.excitation(-heard - 1)
    own, passage, nearness = [], [], []
    for index in range(-heard, followed):
        block = next(conditioning)
        own.append(true.excitation(index, *guided_levels(block, index)))
        passage.append(block.excitation)
        nearness.append(block.nearness)
    return View(
        own=limited(np.concatenate(own, axis=1)),
        passage=limited(np.concatenate(passage, axis=1)),
        nearness=np.array(nearness, np.float32),
        block=length.block,
    )


def guided_levels(block: Block, index: int) -> tuple[F64 | None, F64 | None]:
    """Return the levels at both ends of block ``index``; after the cut, the conditioning's."""
    return (block.first.level if index > 0 else None, block.last.level if index >= 0 else None)


class Sampler:
    """Draws batches of crops from views. The same seed, epoch and index give the same batch."""

    def __init__(
        self, views: Sequence[View], *, rows: int, steps: int, look_back: int, seed: int
    ) -> None:
        self._views = list(views)
        self._rows, self._steps = rows, steps
        self._look_back, self._seed = look_back, seed

    def batch(
        self, epoch: int, index: int, noisy: bool = True
    ) -> tuple[list[NDArray[np.generic]], F32]:
        """Return the network's five inputs and the target (rows, PICKED * FAST, 1).

        ``noisy``: what is heard of the own past drifts in level, as it does when the network
        hears itself, and some crops have no memory; the target stays what it is.
        """
        rng = np.random.default_rng([self._seed, epoch, index, int(noisy)])
        crops = [self._crop(rng, noisy) for _ in range(self._rows)]
        slow, fast, picked, sight, passage, target = map(np.stack, zip(*crops, strict=True))
        return [slow, fast, picked, sight, passage], target

    def _crop(self, rng: np.random.Generator, noisy: bool) -> tuple[NDArray[np.generic], ...]:
        view = self._views[rng.integers(len(self._views))]
        frames = self._steps * SLOW
        whole = frames + EDGES * SLOW
        first = int(rng.integers((view.own.shape[1] - whole) // SLOW + 1)) * SLOW
        piece = slice(first, first + whole)
        row = int(rng.integers(len(view.own)))
        order = [row, *[r for r in range(len(view.own)) if r != row]]
        true, passage = view.own[order, piece], view.passage[order, piece].copy()
        near = view.nearness[(first + SLOW * np.arange(1, self._steps + 1)) // view.block]
        heard = true
        if noisy:
            heard = true * drift(rng, len(true), true.shape[1], view.block)
            if rng.random() < WITHOUT_MEMORY:
                passage[:] = 0.0
                near = np.zeros_like(near)
        heard, passage = np.ascontiguousarray(heard), np.ascontiguousarray(passage)
        return crop(heard, passage, near, true, self._look_back, self._pick(rng))

    def _pick(self, rng: np.random.Generator) -> NDArray[np.int64]:
        fast = self._steps * SLOW // FAST
        return np.sort(rng.choice(fast, min(PICKED, fast), replace=False))


def crop(
    heard: F32, passage: F32, near: F32, true: F32, look_back: int, picked: NDArray[np.int64]
) -> tuple[NDArray[np.generic], ...]:
    """Return the inputs for the first row of one crop, and the target.

    ``heard``, ``passage``, ``true`` (rows, SLOW + steps * SLOW + 2 SLOW): the crop between what
    comes before and after. ``near`` (steps, 2). ``picked``: the fast frames to answer for.
    """
    steps = len(near)
    slow = np.empty((len(heard), steps, SLOW_FEATURES), np.float32)
    fast = np.empty((len(heard), steps * SLOW // FAST, FAST_FEATURES), np.float32)
    all_features(heard, passage, FIRST_STEP, near, slow, fast)
    starts = FIRST_STEP + picked * FAST
    sight = np.empty((len(picked) * FAST, look_back + 2 * AHEAD), np.float32)
    all_sights(heard[0], passage[0], starts, look_back, sight)
    places = (starts[:, None] + np.arange(FAST)).ravel()
    return (
        slow[0],
        fast[0],
        picked.astype(np.int32),
        sight,
        passage[0, places, None],
        true[0, places, None],
    )


def drift(rng: np.random.Generator, rows: int, frames: int, block: int) -> F32:
    """Return gains (rows, frames): a random walk in dB, straight between blocks."""
    knots = -(-frames // block) + 1
    walk = np.cumsum(rng.normal(0.0, DRIFT_DB, (rows, knots)), axis=1)
    walk -= walk[:, :1] - rng.normal(0.0, DRIFT_DB, (rows, 1))
    places = np.arange(frames) / block
    decibels = np.stack([np.interp(places, np.arange(knots), row) for row in walk])
    return np.asarray(10.0 ** (decibels / 20.0), np.float32)


def batches(
    sampler: Sampler, epoch: int, count: int
) -> Iterator[tuple[list[NDArray[np.generic]], F32]]:
    """Yield the batches of an epoch; a thread makes the next one while the last is learned."""
    for _, batch in prefetch(partial(sampler.batch, epoch), range(count)):
        yield batch

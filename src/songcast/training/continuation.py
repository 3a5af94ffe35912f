"""Training of the continuation model: examples, which are songs cut at many places, and the loss.

An example is a song up to a cut, conditioned exactly as a continuation would be. The target is
the excitation that would drive the conditioning filters to give the true next seconds.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

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
    FAST,
    FAST_FEATURES,
    SLOW,
    SLOW_FEATURES,
    all_features,
    all_sights,
    limited,
)
from songcast.continuation.network import code_length_bits
from songcast.continuation.settings import AHEAD
from songcast.data.corpus import PreparedSong
from songcast.errors import CorpusError
from songcast.training.fit import Objective

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

# Extra steps of a crop: the past of its first step and the future of its last one.
EDGES = 3
FIRST_STEP = SLOW
# Length of an example in crops, before and after its cut.
CROPS_BEFORE, CROPS_AFTER = 1, 2
# Before an earlier cut there is too little song for a useful retrieval.
EARLIEST_SECONDS = 2.5
# Standard deviation in dB per block of the random walk of input levels.
DRIFT_DB = 1.5
NO_PASSAGE_SHARE = 0.15
# The loss uses so many random fast steps of a crop, because the head is the largest cost.
PICKED = 64
WARMUP_SHARE, AVERAGE_MOMENTUM = 0.1, 0.98
# Batches of the validation after each epoch.
VALIDATION_BATCHES = 6
# The modules that train the model: a checkpoint depends on their code.
CODE = ("songcast.training.continuation", "songcast.training.fit")


@dataclass(frozen=True, kw_only=True)
class Example:
    """``own``, ``passage`` (rows, frames) float32: the true and the retrieved excitation.

    ``nearness`` (blocks, 2) float32: 1 if a passage was retrieved, and its distance in 10 dB.
    ``block``: frames per block.
    """

    own: F32
    passage: F32
    nearness: F32
    block: int


def make_examples(
    songs: Sequence[tuple[PreparedSong, int]], count: int, crop_frames: int, threads: int
) -> tuple[list[Example], list[Example]]:
    """Return about ``count`` training examples and one validation example of each song.

    ``songs``: each song with the number of its frames that may be used. Where there is room, the
    last frames of these are used for validation only. Raises ``CorpusError`` if no song is long
    enough.
    """
    training, validation = [], []
    share = max(count // max(len(songs), 1), 1)
    for song, frames in songs:
        length = Length.of(song.sample_rate_hz, crop_frames)
        last = frames - length.after
        cuts = length.cuts(last, share)
        if cuts:
            validation.append((song, frames, last, length))
        training += [(song, frames, cut, length) for cut in cuts or length.cuts(frames, share)]
    if not training:
        raise CorpusError(
            "no song is long enough to train its continuation: add longer songs or reduce "
            "continuation.crop_steps in params.yaml"
        )

    def work(job: tuple[PreparedSong, int, int, Length]) -> Example:
        song, usable_frames, cut, length = job
        # Opened here: a map of every song at once would exceed the limit of open files.
        return make_example(song.samples[:usable_frames], song.sample_rate_hz, cut, length)

    with ThreadPoolExecutor(threads) as pool:
        examples = list(pool.map(work, [*training, *validation]))
    return examples[: len(training)], examples[len(training) :]


@dataclass(frozen=True, kw_only=True)
class Length:
    """The length of examples in frames, ``before`` and ``after`` the cut."""

    block: int
    before: int
    after: int
    earliest: int

    @classmethod
    def of(cls, sample_rate_hz: int, crop_frames: int) -> "Length":
        """Return the length for crops of ``crop_frames``, in whole blocks."""
        block = block_frames(sample_rate_hz)
        crop = -(-(crop_frames + EDGES * SLOW) // block) * block
        return cls(
            block=block,
            before=CROPS_BEFORE * crop,
            after=CROPS_AFTER * crop,
            earliest=round(EARLIEST_SECONDS * sample_rate_hz),
        )

    def cuts(self, frames: int, count: int) -> list[int]:
        """Return up to ``count`` evenly spread cuts of examples within the first ``frames``."""
        first, last = self.before + self.block, frames - self.after
        first = max(first, min(self.earliest, last))
        return (
            sorted({int(cut) for cut in np.linspace(first, last, count)}) if last >= first else []
        )


def make_example(
    samples: NDArray[np.int16], sample_rate_hz: int, cut: int, length: Length
) -> Example:
    """Return the example of ``samples`` (frames, channels) int16, cut at frame ``cut``."""
    before, after = length.before // length.block, length.after // length.block
    prompt = Prompt(samples[:cut], sample_rate_hz)
    conditioning = Conditioning(prompt, np.random.default_rng(cut), before)
    true = Passage(Rows(samples, sample_rate_hz, prompt.rows.rotation), cut)
    true.excitation(-before - 1)
    own, passage, nearness = [], [], []
    for index in range(-before, after):
        block = next(conditioning)
        own.append(true.excitation(index, *target_levels(block, index)))
        passage.append(block.excitation)
        nearness.append(block.nearness)
    return Example(
        own=limited(np.concatenate(own, axis=1)),
        passage=limited(np.concatenate(passage, axis=1)),
        nearness=np.array(nearness, np.float32),
        block=length.block,
    )


def target_levels(block: Block, index: int) -> tuple[F64 | None, F64 | None]:
    """Return the levels at both ends of block ``index``; after the cut, the conditioning's."""
    return (block.first.level if index > 0 else None, block.last.level if index >= 0 else None)


class Sampler:
    """Draws batches of crops from examples; deterministic in seed, epoch and index."""

    def __init__(
        self, examples: Sequence[Example], *, rows: int, steps: int, look_back: int, seed: int
    ) -> None:
        self._examples = list(examples)
        self._rows, self._steps = rows, steps
        self._look_back, self._seed = look_back, seed

    def batch(
        self, epoch: int, index: int, noisy: bool = True
    ) -> tuple[list[NDArray[np.generic]], F32]:
        """Return the network's five inputs and the target (rows, PICKED * FAST, 1).

        ``noisy``: the level of the past excitation drifts, as it does when the network runs on
        its own output, and some crops have no retrieved passage. The target stays the same.
        """
        rng = np.random.default_rng([self._seed, epoch, index, int(noisy)])
        crops = [self._crop(rng, noisy) for _ in range(self._rows)]
        slow, fast, picked, sight, passage, target = map(np.stack, zip(*crops, strict=True))
        return [slow, fast, picked, sight, passage], target

    def _crop(self, rng: np.random.Generator, noisy: bool) -> tuple[NDArray[np.generic], ...]:
        example = self._examples[rng.integers(len(self._examples))]
        frames = self._steps * SLOW
        whole = frames + EDGES * SLOW
        first = int(rng.integers((example.own.shape[1] - whole) // SLOW + 1)) * SLOW
        piece = slice(first, first + whole)
        row = int(rng.integers(len(example.own)))
        order = [row, *[r for r in range(len(example.own)) if r != row]]
        true, passage = example.own[order, piece], example.passage[order, piece].copy()
        near = example.nearness[(first + SLOW * np.arange(1, self._steps + 1)) // example.block]
        own = true
        if noisy:
            own = true * drift(rng, len(true), true.shape[1], example.block)
            if rng.random() < NO_PASSAGE_SHARE:
                passage[:] = 0.0
                near = np.zeros_like(near)
        own, passage = np.ascontiguousarray(own), np.ascontiguousarray(passage)
        return crop(own, passage, near, true, self._look_back, self._pick(rng))

    def _pick(self, rng: np.random.Generator) -> NDArray[np.int64]:
        fast = self._steps * SLOW // FAST
        return np.sort(rng.choice(fast, min(PICKED, fast), replace=False))


def crop(
    own: F32, passage: F32, near: F32, true: F32, look_back: int, picked: NDArray[np.int64]
) -> tuple[NDArray[np.generic], ...]:
    """Return the inputs for the first row of one crop, and the target.

    ``own``, ``passage``, ``true`` (rows, SLOW + steps * SLOW + 2 SLOW): the crop between what
    comes before and after. ``near`` (steps, 2). ``picked``: the fast steps to predict.
    """
    steps = len(near)
    slow = np.empty((len(own), steps, SLOW_FEATURES), np.float32)
    fast = np.empty((len(own), steps * SLOW // FAST, FAST_FEATURES), np.float32)
    all_features(own, passage, FIRST_STEP, near, slow, fast)
    starts = FIRST_STEP + picked * FAST
    sight = np.empty((len(picked) * FAST, look_back + 2 * AHEAD), np.float32)
    all_sights(own[0], passage[0], starts, look_back, sight)
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


def continuation_objective(learn: Sampler, check: Sampler) -> Objective:
    """Return batches from ``learn``, and a validation on batches from ``check`` without drift.

    Bits per sample are the differential code length of an excitation sample; white Gaussian
    noise at unit level would have 2.05.
    """
    batches = [check.batch(0, i, noisy=False) for i in range(VALIDATION_BATCHES)]

    def validate(trainer: Any) -> list[float]:
        return [float(np.mean([trainer.test_on_batch(*batch) for batch in batches]))]

    return Objective(loss=code_length_bits, batch=learn.batch, validate=validate)

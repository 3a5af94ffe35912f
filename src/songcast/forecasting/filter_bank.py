"""The bank of experts: causal adaptive linear predictors of one song, learning as they hear.

A chain is a sequence of adaptive stages, each predicting what the stages before it left over:
least squares over both channels, or a normalised LMS filter over the channel's own past. The
sum of the predictions so far is an expert wherever a stage says so. The channels go in order:
the second channel's least squares see the first channel's current sample.
"""

import hashlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from songcast.distributed.engine import free_cores
from songcast.errors import ParamsError
from songcast.forecasting.adaptive_filters import LeastSquaresFilter, LmsFilter
from songcast.forecasting.distribution import BLOCK_FRAMES, HIGHEST, LOWEST
from songcast.forecasting.linear_kernels import RANK

# Part of every cache key: raise it whenever the experts' arithmetic changes.
KEY_VERSION = 9

F32 = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class LeastSquares:
    """Exponentially weighted least squares over two channels.

    ``own_taps``, ``other_taps``: past frames of the channel itself and of the other one (the
    second channel's newest is the first channel's current sample). ``forgetting``: weight of
    a frame one older, below 1. ``solve_every``: frames between solutions, a multiple of 8.
    ``sweeps``: 0 solves exactly (Cholesky); n makes n Gauss-Seidel sweeps from the last
    solution instead, cheap and enough behind a whitening stage. ``weighting``: each frame also
    counts by the running variance of the error to minus this power: at 1, loud passages do
    not rule. ``expert``: whether the chain up to here is an expert of the bank.
    """

    own_taps: int
    other_taps: int
    forgetting: float
    solve_every: int = 16
    ridge: float = 1.0
    sweeps: int = 0
    weighting: float = 0.0
    expert: bool = True

    def __post_init__(self) -> None:
        if not (1 <= self.own_taps <= 1024 and 1 <= self.other_taps <= 1024):
            raise ParamsError(
                f"filter bank: taps must be 1 … 1024, got {self.own_taps} and {self.other_taps}"
            )
        if not 0.5 <= self.forgetting < 1.0:
            raise ParamsError(f"filter bank: forgetting must be in [0.5, 1), got {self.forgetting}")
        if self.solve_every < RANK or self.solve_every % RANK:
            raise ParamsError(
                f"filter bank: solve_every must be a multiple of {RANK}, got {self.solve_every}"
            )
        if not 0 <= self.sweeps <= 100:
            raise ParamsError(f"filter bank: sweeps must be 0 … 100, got {self.sweeps}")
        if not self.ridge > 0.0:
            raise ParamsError(f"filter bank: ridge must be above 0, got {self.ridge}")
        if not 0.0 <= self.weighting <= 2.0:
            raise ParamsError(f"filter bank: weighting must be in [0, 2], got {self.weighting}")

    def __str__(self) -> str:
        kind = "wls" if self.weighting else "ls"
        return f"{kind}{self.own_taps}.{self.other_taps}@{self.forgetting:g}"


@dataclass(frozen=True, kw_only=True)
class Lms:
    """A normalised LMS filter of ``taps`` own past frames; ``step`` in (0, 1)."""

    taps: int
    step: float
    expert: bool = True

    def __post_init__(self) -> None:
        if not (1 <= self.taps <= 8192 and 0.0 < self.step < 1.0):
            raise ParamsError(
                "filter bank: an LMS filter needs 1 … 8192 taps and a step in (0, 1), "
                f"got {self.taps} and {self.step}"
            )

    def __str__(self) -> str:
        return f"lms{self.taps}@{self.step:g}"


Stage = LeastSquares | Lms
Chain = tuple[Stage, ...]

# Slow and short first: the long filters learn fastest on a white signal. Then the long
# memory, at large steps; partial sums are experts too, for the combiner to shrink.
WHITEN = LeastSquares(own_taps=8, other_taps=4, forgetting=0.9998, solve_every=64, expert=False)
LONG: Chain = (
    WHITEN,
    Lms(taps=2048, step=0.2),
    Lms(taps=1024, step=0.2),
    Lms(taps=512, step=0.2),
    Lms(taps=256, step=0.2),
)
# Smaller steps, then quick least squares on what is left.
MIDDLE: Chain = (
    WHITEN,
    Lms(taps=1024, step=0.1),
    Lms(taps=512, step=0.1),
    Lms(taps=256, step=0.1),
    LeastSquares(own_taps=16, other_taps=8, forgetting=0.997, solve_every=8, sweeps=1),
    Lms(taps=16, step=0.02),
)
# Fast least squares first: follows what changes within milliseconds, as lossy codecs' frames.
FAST: Chain = (
    LeastSquares(own_taps=32, other_taps=16, forgetting=0.998, solve_every=32),
    Lms(taps=256, step=0.05),
    Lms(taps=32, step=0.03, expert=False),
    Lms(taps=16, step=0.02),
    LeastSquares(own_taps=32, other_taps=16, forgetting=0.995, solve_every=8, sweeps=2),
)
# What only the network's wider bank has. Weighted least squares, then small steps.
STEADY: Chain = (
    LeastSquares(own_taps=32, other_taps=16, forgetting=0.999, solve_every=32, weighting=1.0),
    Lms(taps=256, step=0.01),
    Lms(taps=32, step=0.01),
    Lms(taps=16, step=0.01),
)
SLOW: Chain = (WHITEN, Lms(taps=1024, step=0.02), Lms(taps=256, step=0.02))

# Many taps, solved loosely: resolves the close partials of strings and reeds soonest.
HIGH: Chain = (
    WHITEN,
    LeastSquares(own_taps=128, other_taps=32, forgetting=0.999, solve_every=16, sweeps=1),
    Lms(taps=1024, step=0.05),
    Lms(taps=256, step=0.05),
    Lms(taps=16, step=0.01),
)


@dataclass(frozen=True, kw_only=True)
class FilterBankSettings:
    """The whole bank; the defaults are the measured best for its cost (docs/model.md)."""

    chains: tuple[Chain, ...] = (LONG, MIDDLE, FAST)

    def __post_init__(self) -> None:
        if not self.names:
            raise ParamsError("filter bank: at least one stage must be an expert")

    @classmethod
    def wide(cls) -> "FilterBankSettings":
        """Return the bank the network listens through: near twice the cost, more diverse."""
        return cls(chains=(LONG, MIDDLE, FAST, STEADY, SLOW, HIGH))

    @property
    def names(self) -> tuple[str, ...]:
        """One name per expert, in the order of the bank's last axis."""
        return tuple(
            f"{number}:{stage}"
            for number, chain in enumerate(self.chains)
            for stage in chain
            if stage.expert
        )

    def to_json(self) -> list[list[dict[str, Any]]]:
        """Every chain as a list of stages, for a bundle."""
        return [[{"kind": type(s).__name__, **asdict(s)} for s in chain] for chain in self.chains]

    @classmethod
    def from_json(cls, said: list[list[dict[str, Any]]]) -> "FilterBankSettings":
        """Read what ``to_json`` gave."""
        return cls(chains=tuple(tuple(_stage(**stage) for stage in chain) for chain in said))

    def key(self) -> str:
        """Short stable name of these settings and of the arithmetic, for cache keys."""
        text = f"{KEY_VERSION} {self.chains!r}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _stage(kind: str, **said: Any) -> Stage:
    kinds: dict[str, type[Stage]] = {"LeastSquares": LeastSquares, "Lms": Lms}
    if kind not in kinds:
        raise ParamsError(f"filter bank: unknown stage {kind!r}; known are {', '.join(kinds)}")
    return kinds[kind](**said)


class FilterBank:
    """All experts hearing one song.

    Chains run in parallel threads where there are cores: the result is the same, bit for bit.
    Chains that begin with the same stage share it.
    """

    def __init__(
        self,
        channels: int,
        settings: FilterBankSettings | None = None,
        *,
        threads: int | None = None,
    ) -> None:
        self.settings = settings or FilterBankSettings()
        self.names = self.settings.names
        chains = self.settings.chains
        self._first = {chain[0]: StageFilters(chain[0], channels) for chain in chains}
        self._rest = [[StageFilters(stage, channels) for stage in chain[1:]] for chain in chains]
        self._pool = ThreadPoolExecutor(min(threads or free_cores(), len(chains)))

    def predict(self, samples: NDArray[np.int16]) -> F32:
        """Predict each sample from the past alone, then learn from it.

        ``samples``: (frames, channels) int16. Returns (frames, channels, experts) float32,
        each expert's mean in LSB. State is carried: chunked = whole, bit for bit.
        """
        means = np.empty((*samples.shape, len(self.names)), np.float32)
        for start in range(0, len(samples), BLOCK_FRAMES):
            block = slice(start, start + BLOCK_FRAMES)
            x = np.ascontiguousarray(samples[block].T, np.float32)
            # First stages are queued before those that wait for them.
            first = {s: self._pool.submit(f.predict, x) for s, f in self._first.items()}
            for task in [self._pool.submit(*job) for job in self._jobs(x, first, means[block])]:
                task.result()
        return means

    def _jobs(
        self, x: F32, first: "dict[Stage, Future[F32]]", means: F32
    ) -> "Iterator[tuple[Any, ...]]":
        k = 0
        for chain, rest in zip(self.settings.chains, self._rest, strict=True):
            experts = sum(stage.expert for stage in chain)
            out = means[:, :, k : k + experts]
            yield _predict_chain, x, chain, first[chain[0]], rest, out
            k += experts


def _predict_chain(
    x: F32, chain: Chain, first: "Future[F32]", rest: "list[StageFilters]", means: F32
) -> None:
    """``x`` (channels, frames); writes ``means`` (frames, channels, experts)."""
    left = x
    # The sum of predictions, never x minus what is left: that rounds by the value of x.
    mean = np.zeros(x.shape, np.float64)
    k = 0
    for stage, filters in zip(chain, [None, *rest], strict=True):
        predicted = filters.predict(left) if filters else first.result()
        left = left - predicted
        mean += predicted
        if stage.expert:
            np.clip(mean.T, LOWEST, HIGHEST, out=means[:, :, k], casting="same_kind")
            k += 1


class StageFilters:
    """One stage hearing all channels."""

    def __init__(self, stage: Stage, channels: int) -> None:
        self._filters = [
            LeastSquaresFilter(stage, channel, channels)
            if isinstance(stage, LeastSquares)
            else LmsFilter(stage)
            for channel in range(channels)
        ]

    def predict(self, signals: F32) -> F32:
        """Predict ``signals`` (channels, frames) float32 from the past; returns the same shape."""
        return np.stack([f.predict(signals, channel) for channel, f in enumerate(self._filters)])

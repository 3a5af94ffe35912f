"""The bank of experts: causal adaptive linear predictors of one song, learning as they hear.

A group is one least-squares stage over both channels and several cascades of LMS filters on
its residual; every cascade is an expert, and so is the stage alone. The channels go in
order: the second channel's stage sees the first channel's current sample.
"""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from songcast.errors import ParamsError
from songcast.forecasters.experts_kernels import RANK, least_squares, normalised_lms

Cascade = tuple[tuple[int, float], ...]
BLOCK_FRAMES = 4096
KEY_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class GroupSettings:
    """One least-squares stage and the cascades on its residual.

    ``own_taps``, ``other_taps``: past frames of the channel itself and of the other one.
    ``forgetting``: weight of a sample one frame older, below 1. ``cascades``: each a tuple of
    (taps, step) filters, in order; the empty cascade is the stage alone.
    """

    own_taps: int = 32
    other_taps: int = 16
    forgetting: float = 0.998
    ridge: float = 1.0
    solve_every: int = 8
    cascades: tuple[Cascade, ...] = ((),)

    def __post_init__(self) -> None:
        if not (1 <= self.own_taps <= 1024 and 1 <= self.other_taps <= 1024):
            raise ParamsError(
                f"experts: taps must be 1 … 1024, got {self.own_taps} and {self.other_taps}"
            )
        if not 0.5 <= self.forgetting < 1.0:
            raise ParamsError(f"experts: forgetting must be in [0.5, 1), got {self.forgetting}")
        if self.solve_every < RANK or self.solve_every % RANK:
            raise ParamsError(
                f"experts: solve_every must be a multiple of {RANK}, got {self.solve_every}"
            )
        if not self.ridge > 0.0:
            raise ParamsError(f"experts: ridge must be above 0, got {self.ridge}")
        for cascade in self.cascades:
            for taps, step in cascade:
                if not (1 <= taps <= 8192 and 0.0 < step < 1.0):
                    raise ParamsError(
                        "experts: a filter needs 1 … 8192 taps and a step in (0, 1), "
                        f"got {taps} and {step}"
                    )


@dataclass(frozen=True, kw_only=True)
class ExpertSettings:
    """The whole bank; the defaults are the measured best (docs/model.md)."""

    groups: tuple[GroupSettings, ...] = (
        GroupSettings(
            forgetting=0.998,
            cascades=(
                (),
                ((1024, 0.005), (256, 0.005), (16, 0.005)),
                ((256, 0.005), (32, 0.005), (16, 0.005)),
            ),
        ),
        GroupSettings(
            forgetting=0.9995,
            cascades=(
                ((2048, 0.003), (256, 0.004), (32, 0.005), (16, 0.005)),
                ((32, 0.005), (16, 0.005)),
            ),
        ),
    )

    def __post_init__(self) -> None:
        if not self.groups or not all(group.cascades for group in self.groups):
            raise ParamsError("experts: every group needs at least one cascade")

    @property
    def names(self) -> tuple[str, ...]:
        """One name per expert, in the order of the bank's last axis."""
        return tuple(
            "-".join([f"ls{group.forgetting:g}", *(str(taps) for taps, _ in cascade)])
            for group in self.groups
            for cascade in group.cascades
        )

    def key(self) -> str:
        """Short stable name of these settings, for cache keys."""
        text = repr((KEY_VERSION, astuple(self)))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class ExpertBank:
    """All experts hearing one song."""

    def __init__(self, channels: int, settings: ExpertSettings | None = None) -> None:
        self.settings = settings or ExpertSettings()
        self.channels = channels
        self.names = self.settings.names
        self._groups = [
            [_Group(group, channel, channels) for group in self.settings.groups]
            for channel in range(channels)
        ]
        self._past = max(_reach(group) for group in self.settings.groups)
        self._history = np.zeros((self._past, channels), np.int16)
        workers = min(os.cpu_count() or 1, channels * len(self.settings.groups))
        self._pool = ThreadPoolExecutor(workers) if workers > 1 else None

    def hear(self, samples: NDArray[np.int16]) -> NDArray[np.float32]:
        """Predict each sample from the past alone, then learn from it.

        ``samples``: (frames, channels) int16. Returns (frames, channels, experts) float32,
        each expert's mean in LSB. State is carried: chunked = whole, bit for bit.
        """
        out = np.empty((*samples.shape, len(self.names)), np.float32)
        for start in range(0, len(samples), BLOCK_FRAMES):
            stop = start + BLOCK_FRAMES
            self._hear_block(samples[start:stop], out[start:stop])
        return out

    def _hear_block(self, samples: NDArray[np.int16], out: NDArray[np.float32]) -> None:
        heard = np.concatenate([self._history, samples])
        self._history = heard[len(heard) - self._past :]
        signals = np.ascontiguousarray(heard.T, np.float64)
        jobs = []
        for channel, groups in enumerate(self._groups):
            first = 0
            own, other = signals[channel], signals[self.channels - 1 - channel]
            for group in groups:
                last = first + len(group.settings.cascades)
                jobs.append((group, own, other, out[:, channel, first:last]))
                first = last
        if self._pool is None:
            for group, own, other, means in jobs:
                group.hear(own, other, self._past, means)
            return
        tasks = [self._pool.submit(g.hear, own, other, self._past, m) for g, own, other, m in jobs]
        for task in tasks:
            task.result()


class _Filter:
    """One LMS filter of a cascade."""

    def __init__(self, taps: int, step: float) -> None:
        self.step = step
        self.weights = np.zeros(taps, np.float32)
        self.history = np.zeros(taps, np.float32)

    def hear(self, signal: NDArray[np.float32]) -> NDArray[np.float32]:
        """Predict each sample of ``signal`` (frames,) from those before it."""
        taps = len(self.weights)
        heard = np.concatenate([self.history, signal])
        self.history = heard[len(heard) - taps :]
        out = np.empty(len(signal), np.float32)
        normalised_lms(heard, taps, self.step, self.weights, out)
        return out


class _Group:
    """A least-squares stage and its cascades, for one channel."""

    def __init__(self, settings: GroupSettings, channel: int, channels: int) -> None:
        self.settings = settings
        other_taps = settings.other_taps if channels > 1 else 0
        n = settings.own_taps + other_taps
        self._counts = np.array(
            [settings.own_taps, other_taps, channel, settings.solve_every, 0], np.int64
        )
        self._matrix = np.zeros((2, n, n))
        self._vectors = np.zeros((3, n))
        # Before the first solution: the last sample.
        self._vectors[1, settings.own_taps - 1] = 1.0
        self._rows = np.zeros((RANK + 1, max(n, RANK)))
        self._cascades = [[_Filter(*f) for f in cascade] for cascade in settings.cascades]

    def hear(
        self,
        own: NDArray[np.float64],
        other: NDArray[np.float64],
        past: int,
        means: NDArray[np.float32],
    ) -> None:
        """Write the means (frames, cascades) of the block after the first ``past`` samples."""
        stage = np.empty(len(own) - past)
        settings = self.settings
        least_squares(
            own,
            other,
            past,
            self._counts,
            settings.forgetting,
            settings.ridge,
            self._matrix,
            self._vectors,
            self._rows,
            stage,
        )
        truth = own[past:]
        residual = (truth - stage).astype(np.float32)
        for k, cascade in enumerate(self._cascades):
            left = residual
            for stage_filter in cascade:
                left = left - stage_filter.hear(left)
            means[:, k] = np.clip(truth - left, -32768.0, 32767.0)


def _reach(group: GroupSettings) -> int:
    return max(group.own_taps, group.other_taps)

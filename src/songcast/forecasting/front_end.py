"""What the network listens through: experts and their combination, or less.

``cascade`` is the full bank of adaptive experts, ``ridge`` one frozen linear predictor and
``none`` a prediction of zero, which leaves the network alone with the samples.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from songcast.forecasting.filter_bank import FilterBank, FilterBankSettings
from songcast.forecasting.ridge import LinearPredictor, Taps
from songcast.forecasting.stacking import StackedBlock, Stacking

FrontEndKind = Literal["cascade", "ridge", "none"]
Experts = Callable[[NDArray[np.int16]], NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedBlock:
    """A block of samples and what was predicted of each from the past alone.

    ``samples`` (frames, channels) int16; ``means`` (frames, channels, experts) float32 in LSB;
    ``stacked``: what the combiner makes of them.
    """

    samples: NDArray[np.int16]
    means: NDArray[np.float32]
    stacked: StackedBlock

    @classmethod
    def blank(cls, frames: int, channels: int, experts: int, mixtures: int) -> "EncodedBlock":
        """Return a block of silence, to be written into: finite wherever it is looked at."""
        shape = (frames, channels)
        stacked = StackedBlock(
            mean=np.zeros(shape),
            running_scales=np.ones((*shape, Stacking.components)),
            weights=np.full((*shape, mixtures), 1.0 / mixtures),
            locations=np.zeros((*shape, mixtures)),
            scales=np.ones((*shape, mixtures)),
            expert_error=np.ones((*shape, experts), np.float32),
        )
        return cls(
            samples=np.zeros(shape, np.int16),
            means=np.zeros((*shape, experts), np.float32),
            stacked=stacked,
        )

    def write(self, first: int, other: "EncodedBlock") -> None:
        """Write the rows of ``other`` from row ``first`` on."""
        stop = first + len(other.samples)
        self.samples[first:stop] = other.samples
        self.means[first:stop] = other.means
        for stream in fields(StackedBlock):
            rows = getattr(self.stacked, stream.name)
            rows[first:stop] = getattr(other.stacked, stream.name)

    def cut(self, start: int, stop: int) -> "EncodedBlock":
        """Return the rows [start, stop)."""
        stacked = {f.name: getattr(self.stacked, f.name)[start:stop] for f in fields(StackedBlock)}
        return EncodedBlock(
            samples=self.samples[start:stop],
            means=self.means[start:stop],
            stacked=StackedBlock(**stacked),
        )


class FrontEnd:
    """Experts and combiner hearing one song. Chunked equals whole, bit for bit."""

    def __init__(self, channels: int, experts: Experts, expert_count: int) -> None:
        self._experts = experts
        self._stacking = Stacking(channels, expert_count)

    def encode(self, samples: NDArray[np.int16]) -> EncodedBlock:
        """Predict ``samples`` (frames, channels) int16, then learn from them."""
        means = self._experts(samples)
        stacked = self._stacking.combine(samples, means)
        return EncodedBlock(samples=samples, means=means, stacked=stacked)


@dataclass(frozen=True, kw_only=True)
class FrontEndSettings:
    """Which front end, and what it needs: ``filter_bank`` for cascade, ``taps`` for ridge."""

    kind: FrontEndKind = "cascade"
    filter_bank: FilterBankSettings = field(default_factory=FilterBankSettings)
    taps: Taps | None = None

    @property
    def expert_names(self) -> tuple[str, ...]:
        """One name per expert."""
        return self.filter_bank.names if self.kind == "cascade" else (self.kind,)

    def to_json(self) -> dict[str, Any]:
        """Return the settings for a bundle.json; taps are arrays and stand elsewhere."""
        return {"kind": self.kind, "filter_bank": self.filter_bank.to_json()}

    @classmethod
    def from_json(cls, record: dict[str, Any], taps: Taps | None) -> "FrontEndSettings":
        """Read what ``to_json`` gave."""
        return cls(
            kind=record["kind"],
            filter_bank=FilterBankSettings.from_json(record["filter_bank"]),
            taps=taps,
        )

    def open(self, channels: int) -> FrontEnd:
        """Start hearing a song of ``channels`` channels."""
        return FrontEnd(channels, self._predictor(channels), len(self.expert_names))

    def _predictor(self, channels: int) -> Experts:
        if self.kind == "cascade":
            return FilterBank(channels, self.filter_bank).predict
        if self.kind == "none":
            return lambda samples: np.zeros((*samples.shape, 1), np.float32)
        if self.taps is None:
            raise ValueError("a ridge front end needs taps")
        predictor = LinearPredictor(self.taps[channels])
        return lambda samples: predictor.predict(samples).astype(np.float32)[..., None]

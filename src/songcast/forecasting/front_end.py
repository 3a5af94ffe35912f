"""What the network listens through: experts and their combination, or less.

``cascade`` is the full bank of adaptive experts, ``ridge`` one frozen linear predictor and
``none`` a prediction of zero, which leaves the network alone with the samples.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from songcast.forecasting.filter_bank import ExpertBank, ExpertSettings
from songcast.forecasting.ridge import LinearPredictor, Taps
from songcast.forecasting.stacking import CombinedBlock, Combiner

FrontEndKind = Literal["cascade", "ridge", "none"]
Experts = Callable[[NDArray[np.int16]], NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Heard:
    """A block of samples and what was predicted of each from the past alone.

    ``samples`` (frames, channels) int16; ``means`` (frames, channels, experts) float32 in LSB;
    ``combined``: what the combiner makes of them.
    """

    samples: NDArray[np.int16]
    means: NDArray[np.float32]
    combined: CombinedBlock

    @classmethod
    def blank(cls, frames: int, channels: int, experts: int, mixtures: int) -> "Heard":
        """Return a block of silence, to be written into: finite wherever it is looked at."""
        shape = (frames, channels)
        combined = CombinedBlock(
            mean=np.zeros(shape),
            running_scales=np.ones((*shape, Combiner.components)),
            weights=np.full((*shape, mixtures), 1.0 / mixtures),
            locations=np.zeros((*shape, mixtures)),
            scales=np.ones((*shape, mixtures)),
            expert_error=np.ones((*shape, experts), np.float32),
        )
        return cls(
            samples=np.zeros(shape, np.int16),
            means=np.zeros((*shape, experts), np.float32),
            combined=combined,
        )

    def write(self, first: int, other: "Heard") -> None:
        """Write the rows of ``other`` from row ``first`` on."""
        stop = first + len(other.samples)
        self.samples[first:stop] = other.samples
        self.means[first:stop] = other.means
        for stream in fields(CombinedBlock):
            rows = getattr(self.combined, stream.name)
            rows[first:stop] = getattr(other.combined, stream.name)

    def rows(self, start: int, stop: int) -> "Heard":
        """Return the rows [start, stop)."""
        combined = {
            f.name: getattr(self.combined, f.name)[start:stop] for f in fields(CombinedBlock)
        }
        return Heard(
            samples=self.samples[start:stop],
            means=self.means[start:stop],
            combined=CombinedBlock(**combined),
        )


class FrontEnd:
    """Experts and combiner hearing one song. Chunked equals whole, bit for bit."""

    def __init__(self, channels: int, experts: Experts, expert_count: int) -> None:
        self._experts = experts
        self._combiner = Combiner(channels, expert_count)

    def hear(self, samples: NDArray[np.int16]) -> Heard:
        """Predict ``samples`` (frames, channels) int16, then learn from them."""
        means = self._experts(samples)
        combined = self._combiner.hear(samples, means)
        return Heard(samples=samples, means=means, combined=combined)


@dataclass(frozen=True, kw_only=True)
class FrontEndSettings:
    """Which front end, and what it needs: ``experts`` for cascade, ``taps`` for ridge."""

    kind: FrontEndKind = "cascade"
    experts: ExpertSettings = field(default_factory=ExpertSettings)
    taps: Taps | None = None

    @property
    def expert_names(self) -> tuple[str, ...]:
        """One name per expert."""
        return self.experts.names if self.kind == "cascade" else (self.kind,)

    def to_json(self) -> dict[str, Any]:
        """Return the settings for a bundle.json; taps are arrays and stand elsewhere."""
        return {"kind": self.kind, "experts": self.experts.to_json()}

    @classmethod
    def from_json(cls, said: dict[str, Any], taps: Taps | None) -> "FrontEndSettings":
        """Read what ``to_json`` gave."""
        return cls(kind=said["kind"], experts=ExpertSettings.from_json(said["experts"]), taps=taps)

    def open(self, channels: int) -> FrontEnd:
        """Start hearing a song of ``channels`` channels."""
        return FrontEnd(channels, self._predictor(channels), len(self.expert_names))

    def _predictor(self, channels: int) -> Experts:
        if self.kind == "cascade":
            return ExpertBank(channels, self.experts).hear
        if self.kind == "none":
            return lambda samples: np.zeros((*samples.shape, 1), np.float32)
        if self.taps is None:
            raise ValueError("a ridge front end needs taps")
        predictor = LinearPredictor(self.taps[channels])
        return lambda samples: predictor.hear(samples).astype(np.float32)[..., None]

"""What the network listens through: experts and their combination, or less.

``cascade`` is the full bank of adaptive experts, ``ridge`` one frozen linear predictor and
``none`` a prediction of zero, which leaves the network alone with the samples.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from songcast.forecasters.combiner import CombinedBlock, Combiner
from songcast.forecasters.experts import ExpertBank, ExpertSettings
from songcast.forecasters.ridge import LinearPredictor, Taps

FrontEndKind = Literal["cascade", "ridge", "none"]
Experts = Callable[[NDArray[np.int16]], NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class Heard:
    """A block of samples and what was predicted of each from the past alone.

    ``samples`` (frames, channels) int16; ``means`` (frames, channels, experts) float32 in LSB.
    """

    samples: NDArray[np.int16]
    means: NDArray[np.float32]
    combined: CombinedBlock


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
    experts: ExpertSettings = ExpertSettings()
    taps: Taps | None = None

    @property
    def expert_names(self) -> tuple[str, ...]:
        """One name per expert."""
        return self.experts.names if self.kind == "cascade" else (self.kind,)

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

"""The front end of a network: experts and stacking, or less.

``cascade`` is a filter bank of adaptive experts, ``ridge`` one frozen linear predictor, and
``none`` a prediction of zero, which leaves the network alone with the samples.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from songcast.forecasting.filter_bank import FilterBank
from songcast.forecasting.filter_bank_settings import FilterBankSettings
from songcast.forecasting.ridge import LinearPredictor, Taps
from songcast.forecasting.stacking import EncodedBlock, Stacking

FrontEndKind = Literal["cascade", "ridge", "none"]
# Maps samples (frames, channels) int16 to means (frames, channels, experts) float32 in LSB.
Experts = Callable[[NDArray[np.int16]], NDArray[np.float32]]


class FrontEnd:
    """The experts and the stacking of one song."""

    def __init__(self, channels: int, experts: Experts, count: int) -> None:
        self._experts = experts
        self.stacking = Stacking(channels, count)

    def encode(self, samples: NDArray[np.int16]) -> EncodedBlock:
        """Predict ``samples`` (frames, channels) int16, then adapt to them."""
        return self.stacking.combine(samples, self._experts(samples))


@dataclass(frozen=True, kw_only=True)
class FrontEndSettings:
    """The kind of front end and its settings.

    ``filter_bank``: for the kind ``cascade``. ``taps``: for the kind ``ridge``.
    """

    kind: FrontEndKind = "cascade"
    filter_bank: FilterBankSettings = field(default_factory=FilterBankSettings)
    taps: Taps | None = None

    @property
    def expert_names(self) -> tuple[str, ...]:
        """One name per expert."""
        return self.filter_bank.names if self.kind == "cascade" else (self.kind,)

    @property
    def cascade_experts(self) -> int:
        """The number of leading experts that form the default cascade; 0 without further ones."""
        cascade = FilterBankSettings()
        wider = self.filter_bank != cascade and self.filter_bank.starts_with(cascade)
        return len(cascade.names) if wider and self.kind == "cascade" else 0

    def to_json(self) -> dict[str, Any]:
        """Return the settings for a bundle.json, without the taps, which are arrays."""
        return {"kind": self.kind, "filter_bank": self.filter_bank.to_json()}

    @classmethod
    def from_json(cls, record: dict[str, Any], taps: Taps | None) -> "FrontEndSettings":
        """Read the result of ``to_json``."""
        bank = FilterBankSettings.from_json(record["filter_bank"])
        return cls(kind=record["kind"], filter_bank=bank, taps=taps)

    def open(self, channels: int) -> FrontEnd:
        """Return a new front end for a song of ``channels`` channels."""
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

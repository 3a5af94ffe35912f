"""The cascade: the best causal predictor here that needs no training.

A bank of adaptive linear experts and their causal combination, both learning as they hear.
"""

import numpy as np
from numpy.typing import NDArray

from songcast.forecasting.distribution import LogisticMixture
from songcast.forecasting.filter_bank import FilterBank, FilterBankSettings
from songcast.forecasting.forecaster import Forecaster, ForecastSession
from songcast.forecasting.stacking import Stacking


class Cascade(Forecaster):
    """Adaptive experts, stacked: see ``experts`` and ``combiner``."""

    name = "cascade"

    def __init__(self, settings: FilterBankSettings | None = None) -> None:
        self.settings = settings or FilterBankSettings()

    def session(self, channels: int, sample_rate_hz: int) -> ForecastSession:  # noqa: ARG002
        """Start listening; the filters count in samples, whatever the rate."""
        return _CascadeSession(channels, self.settings)


class _CascadeSession(ForecastSession):
    def __init__(self, channels: int, settings: FilterBankSettings) -> None:
        self._bank = FilterBank(channels, settings)
        self._stacking = Stacking(channels, len(self._bank.names))

    def forecast_block(self, samples: NDArray[np.int16]) -> LogisticMixture:
        """Distributions of ``samples`` (frames, channels), then learn from them."""
        return self._stacking.combine(samples, self._bank.predict(samples)).mixture

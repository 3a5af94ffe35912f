"""Persistence: the next sample is the last one. The least that a forecaster must beat."""

import numpy as np
from numpy.typing import NDArray

from songcast.forecasting.distribution import LogisticMixture
from songcast.forecasting.forecaster import Forecaster, ForecastSession
from songcast.forecasting.stacking import Stacking


class Persistence(Forecaster):
    """Repeats the last sample of each channel; widths follow its recent errors."""

    name = "persistence"

    def session(self, channels: int, sample_rate_hz: int) -> ForecastSession:  # noqa: ARG002
        """Start listening; the sample rate does not matter."""
        return _PersistenceSession(channels)


class _PersistenceSession(ForecastSession):
    def __init__(self, channels: int) -> None:
        self._last = np.zeros((1, channels))
        self._stacking = Stacking(channels, 1)

    def forecast_block(self, samples: NDArray[np.int16]) -> LogisticMixture:
        means = np.concatenate([self._last, samples.astype(np.float64)])
        self._last = means[-1:]
        return self._stacking.combine(samples, means[:-1, :, None].astype(np.float32)).mixture

"""The baselines that need no training: persistence and the cascade."""

import numpy as np
from numpy.typing import NDArray

from songcast.forecasting.distribution import LogisticMixture
from songcast.forecasting.filter_bank_settings import FilterBankSettings
from songcast.forecasting.forecaster import Forecaster, ForecastSession
from songcast.forecasting.front_end import FrontEndSettings
from songcast.forecasting.stacking import EncodedBlock, Stacking


class Persistence(Forecaster):
    """Repeats the last sample of each channel; the widths follow its recent errors."""

    name = "persistence"

    def session(self, channels: int) -> ForecastSession:
        """Return a session for one song."""
        return _PersistenceSession(channels)


class _PersistenceSession(ForecastSession):
    def __init__(self, channels: int) -> None:
        self._last = np.zeros((1, channels))
        self._stacking = Stacking(channels, 1)

    def forecast_block(self, samples: NDArray[np.int16]) -> LogisticMixture:
        means = np.concatenate([self._last, samples.astype(np.float64)])
        self._last = means[-1:]
        return self._stacking.combine(samples, means[:-1, :, None].astype(np.float32)).mixture


class Cascade(Forecaster):
    """Adaptive filters and their stacking: the best causal predictor here without training."""

    name = "cascade"

    def __init__(self, settings: FilterBankSettings | None = None) -> None:
        self.front_end = FrontEndSettings(filter_bank=settings or FilterBankSettings())

    def session(self, channels: int) -> ForecastSession:
        """Return a session for one song; the filters count in samples at any sample rate."""
        return _CascadeSession(channels, self.front_end)


class _CascadeSession(ForecastSession):
    def __init__(self, channels: int, front_end: FrontEndSettings) -> None:
        self._front_end = front_end.open(channels)
        self._experts = len(front_end.expert_names)
        self._stacking = Stacking(channels, self._experts)

    def forecast_block(self, samples: NDArray[np.int16]) -> LogisticMixture:
        return self.decode(self.encode(samples))

    def encode(self, samples: NDArray[np.int16]) -> EncodedBlock:
        return self._front_end.encode(samples)

    def decode(self, encoded: EncodedBlock) -> LogisticMixture:
        """Accept the blocks of a wider bank too, which begins with these experts."""
        if encoded.means.shape[-1] > self._experts:
            means = encoded.means[..., : self._experts]
            encoded = self._stacking.combine(encoded.samples, means)
        return encoded.mixture

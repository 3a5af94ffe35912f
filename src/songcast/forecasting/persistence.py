"""Persistence: the next sample is the last one. The least that a forecaster must beat."""

import numpy as np
from numpy.typing import NDArray

from songcast.forecasting.distribution import Mixture
from songcast.forecasting.forecaster import Forecaster, Session
from songcast.forecasting.stacking import Combiner


class Persistence(Forecaster):
    """Repeats the last sample of each channel; widths follow its recent errors."""

    name = "persistence"

    def session(self, channels: int, sample_rate_hz: int) -> Session:  # noqa: ARG002
        """Start listening; the sample rate does not matter."""
        return _PersistenceSession(channels)


class _PersistenceSession(Session):
    def __init__(self, channels: int) -> None:
        self._last = np.zeros((1, channels))
        self._combiner = Combiner(channels, 1)

    def hear(self, samples: NDArray[np.int16]) -> Mixture:
        means = np.concatenate([self._last, samples.astype(np.float64)])
        self._last = means[-1:]
        return self._combiner.hear(samples, means[:-1, :, None].astype(np.float32)).mixture

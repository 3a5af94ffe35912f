"""The cascade: the best causal predictor here that needs no training.

A bank of adaptive linear experts and their causal combination, both learning as they hear.
"""

import numpy as np
from numpy.typing import NDArray

from songcast.forecasting.distribution import Mixture
from songcast.forecasting.filter_bank import ExpertBank, ExpertSettings
from songcast.forecasting.forecaster import Forecaster, Session
from songcast.forecasting.stacking import Combiner


class Cascade(Forecaster):
    """Adaptive experts, stacked: see ``experts`` and ``combiner``."""

    name = "cascade"

    def __init__(self, settings: ExpertSettings | None = None) -> None:
        self.settings = settings or ExpertSettings()

    def session(self, channels: int, sample_rate_hz: int) -> Session:  # noqa: ARG002
        """Start listening; the filters count in samples, whatever the rate."""
        return _CascadeSession(channels, self.settings)


class _CascadeSession(Session):
    def __init__(self, channels: int, settings: ExpertSettings) -> None:
        self._bank = ExpertBank(channels, settings)
        self._combiner = Combiner(channels, len(self._bank.names))

    def hear(self, samples: NDArray[np.int16]) -> Mixture:
        """Distributions of ``samples`` (frames, channels), then learn from them."""
        return self._combiner.hear(samples, self._bank.hear(samples)).mixture

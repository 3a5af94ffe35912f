"""Causal combination of the experts' means into one distribution per sample."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from songcast.forecasters.combiner_kernels import LOGISTIC_MEAN_ABS, combine
from songcast.forecasters.mixture import MAX_SCALE_LSB, MIN_SCALE_LSB, Mixture

SCALE_RATES = (1 / 16, 1 / 32, 1 / 128, 1 / 512, 1 / 2048)
STACK_FORGETTING, STACK_RIDGE = 0.9995, 1.0
WEIGHT_MEMORY = 0.98
ERROR_RATE = 1 / 128
FIRST_SCALE_LSB = 100.0


@dataclass(frozen=True, kw_only=True)
class CombinedBlock:
    """What the combiner knew before each sample of a block.

    ``mean``: (frames, channels) float64, LSB. ``running_scales``: (frames, channels, J)
    float64, LSB, running mean |error| at J speeds, fast to slow. ``weights``, ``locations``,
    ``scales``: (frames, channels, M) float64, the mixture; weights are above 0 and sum to 1.
    ``expert_error``: (frames, channels, experts) float32, LSB, each expert's recent mean
    |error|.
    """

    mean: NDArray[np.float64]
    running_scales: NDArray[np.float64]
    weights: NDArray[np.float64]
    locations: NDArray[np.float64]
    scales: NDArray[np.float64]
    expert_error: NDArray[np.float32]

    @property
    def mixture(self) -> Mixture:
        """The distributions of the block."""
        return Mixture(weights=self.weights, locations=self.locations, scales=self.scales)


class Combiner:
    """Stacks the experts' means, follows the error at several speeds; per channel, causal."""

    components = len(SCALE_RATES)
    scale_rates = SCALE_RATES

    def __init__(self, channels: int, experts: int) -> None:
        self._experts = experts
        self._channels = [_Channel(experts) for _ in range(channels)]

    def hear(self, samples: NDArray[np.int16], means: NDArray[np.float32]) -> CombinedBlock:
        """Combine ``means`` (frames, channels, experts) of ``samples``, then learn from them."""
        frames, channels = samples.shape
        mean = np.empty((frames, channels))
        running = np.empty((frames, channels, len(SCALE_RATES)))
        weights = np.empty((frames, channels, self.components))
        errors = np.empty((frames, channels, self._experts), np.float32)
        for c, state in enumerate(self._channels):
            state.hear(
                samples[:, c].astype(np.float64),
                np.ascontiguousarray(means[:, c]),
                mean[:, c],
                running[:, c],
                weights[:, c],
                errors[:, c],
            )
        scales = np.clip(running / LOGISTIC_MEAN_ABS, MIN_SCALE_LSB, MAX_SCALE_LSB)
        locations = np.repeat(mean[..., None], self.components, axis=-1)
        return CombinedBlock(
            mean=mean,
            running_scales=running,
            weights=weights,
            locations=locations,
            scales=scales,
            expert_error=errors,
        )


class _Channel:
    """The state of one channel."""

    def __init__(self, experts: int) -> None:
        self._rates = np.array(SCALE_RATES)
        self._knobs = np.array([STACK_FORGETTING, STACK_RIDGE, WEIGHT_MEMORY, ERROR_RATE])
        self._clock = np.zeros(1, np.int64)
        self._matrix = np.zeros((2, experts, experts))
        self._vectors = np.zeros((4, experts))
        self._errors = np.full(experts, FIRST_SCALE_LSB)
        self._scales = np.full(len(SCALE_RATES), FIRST_SCALE_LSB)
        self._log_weights = np.zeros(len(SCALE_RATES))

    def hear(
        self,
        x: NDArray[np.float64],
        means: NDArray[np.float32],
        mean: NDArray[np.float64],
        scales: NDArray[np.float64],
        weights: NDArray[np.float64],
        errors: NDArray[np.float32],
    ) -> None:
        """Write the outputs of one block, strided views being welcome."""
        combine(
            x,
            means,
            self._rates,
            self._knobs,
            self._clock,
            self._matrix,
            self._vectors,
            self._errors,
            self._scales,
            self._log_weights,
            mean,
            scales,
            weights,
            errors,
        )

"""Causal combination of the experts' means into one distribution per sample.

Two stackers (ridge regression on the experts' means, one quick and one slow to forget) give
the locations, running mean errors at three speeds each give the scales, and the components
are weighed by their recent code length.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from songcast.forecasting.distribution import (
    HIGHEST,
    LOWEST,
    MAX_SCALE_LSB,
    MIN_SCALE_LSB,
    LogisticMixture,
)
from songcast.forecasting.linear_kernels import RANK
from songcast.forecasting.stacking_kernels import (
    FIRST_VARIANCE,
    LOGISTIC_MEAN_ABS,
    follow_errors,
    mix,
    stack,
)

STACK_FORGETTING = (0.995, 0.9995)
# What is slow to forget is slow to change: solved less often, it says the same.
STACK_SOLVE_EVERY = (16, 64)
STACK_RIDGE = 1.0
SCALE_RATES = (1 / 16, 1 / 64, 1 / 512)
WEIGHT_MEMORY, LEAST_WEIGHT = 0.99, 1e-4
ERROR_RATE = 1 / 128
FIRST_ERROR_LSB = 100.0
# Per scale rate: whatever the first sample is, one of the widths is about right. The quickest
# forgets the widest soonest.
FIRST_RUNNING_LSB = (9000.0, 300.0, 10.0)


@dataclass(frozen=True, kw_only=True)
class StackedBlock:
    """What the combiner knew before each sample of a block.

    ``mean``: (frames, channels) float64, LSB, of the mixture. ``running_scales``: (frames,
    channels, M) float64, LSB, each component's running mean |error|; the first half follows
    the quick stacker, the second half the slow one, each from fast to slow. ``weights``,
    ``locations``, ``scales``: (frames, channels, M) float64, the mixture; weights are above 0
    and sum to 1. ``expert_error``: (frames, channels, experts) float32, LSB, each expert's
    recent mean |error|.
    """

    mean: NDArray[np.float64]
    running_scales: NDArray[np.float64]
    weights: NDArray[np.float64]
    locations: NDArray[np.float64]
    scales: NDArray[np.float64]
    expert_error: NDArray[np.float32]

    @property
    def mixture(self) -> LogisticMixture:
        """The distributions of the block."""
        return LogisticMixture(weights=self.weights, locations=self.locations, scales=self.scales)


class Stacking:
    """Stacks the experts' means, follows the error at several speeds; per channel, causal."""

    components = len(STACK_FORGETTING) * len(SCALE_RATES)
    scale_rates = SCALE_RATES * len(STACK_FORGETTING)

    def __init__(self, channels: int, experts: int) -> None:
        self._experts = experts
        self._channels = [_Channel(experts) for _ in range(channels)]

    def combine(self, samples: NDArray[np.int16], means: NDArray[np.float32]) -> StackedBlock:
        """Combine ``means`` (frames, channels, experts) of ``samples``, then learn from them."""
        # Channels first: every channel's rows are contiguous however few they are. Numba compiles
        # another loop, rounding otherwise, for strided arrays; one frame alone is never strided.
        shape = samples.shape[::-1]
        locations, running, weights = np.empty((3, *shape, self.components)).swapaxes(1, 2)
        errors = np.empty((*shape, self._experts), np.float32).swapaxes(0, 1)
        for c, channel in enumerate(self._channels):
            channel.update(
                samples[:, c].astype(np.float64),
                np.ascontiguousarray(means[:, c]),
                locations[:, c],
                running[:, c],
                weights[:, c],
                errors[:, c],
            )
        return StackedBlock(
            mean=np.clip(np.einsum("tcm,tcm->tc", weights, locations), LOWEST, HIGHEST),
            running_scales=running,
            weights=weights,
            locations=locations,
            scales=np.clip(running / LOGISTIC_MEAN_ABS + 0.02, MIN_SCALE_LSB, MAX_SCALE_LSB),
            expert_error=errors,
        )


class _Channel:
    """The state of one channel."""

    def __init__(self, experts: int) -> None:
        settings = zip(STACK_FORGETTING, STACK_SOLVE_EVERY, strict=True)
        self._stackers = [_Stacker(experts, *setting) for setting in settings]
        self._frames = 0
        self._rates = np.array(Stacking.scale_rates)
        self._errors = np.full(experts, FIRST_ERROR_LSB)
        self._running = np.array(FIRST_RUNNING_LSB * len(STACK_FORGETTING))
        self._log_weights = np.zeros(Stacking.components)

    def update(
        self,
        x: NDArray[np.float64],
        means: NDArray[np.float32],
        locations: NDArray[np.float64],
        running: NDArray[np.float64],
        weights: NDArray[np.float64],
        errors: NDArray[np.float32],
    ) -> None:
        """Write the outputs of one block."""
        follow_errors(x, means, ERROR_RATE, self._frames, self._errors, errors)
        stacked = np.stack(
            [stacker.predict(x, means, errors) for stacker in self._stackers], axis=-1
        )
        locations[:] = np.repeat(stacked, len(SCALE_RATES), axis=-1)
        mix(
            x,
            locations,
            self._rates,
            WEIGHT_MEMORY,
            LEAST_WEIGHT,
            self._frames,
            self._running,
            self._log_weights,
            running,
            weights,
        )
        self._frames += len(x)


class _Stacker:
    def __init__(self, experts: int, forgetting: float, solve_every: int) -> None:
        self._forgetting = forgetting
        self._solve_every = solve_every
        self._state = np.array([FIRST_VARIANCE, 0.0])
        self._matrix = np.zeros((2, experts, experts))
        self._vectors = np.zeros((3, experts))
        self._rows = np.zeros((RANK + 1, max(experts, RANK)))

    def predict(
        self,
        x: NDArray[np.float64],
        means: NDArray[np.float32],
        errors: NDArray[np.float32],
    ) -> NDArray[np.float64]:
        """Return the stacked means (frames,) of one channel in LSB."""
        out = np.empty(len(x))
        stack(
            x,
            means,
            errors,
            self._forgetting,
            STACK_RIDGE,
            self._solve_every,
            self._state,
            self._matrix,
            self._vectors,
            self._rows,
            out,
        )
        return out

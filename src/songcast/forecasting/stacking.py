"""Stacking: the experts' means of each sample become one distribution, causally.

Two ridge regressions on the experts' means, one that forgets quickly and one that forgets slowly,
give the locations. Running mean errors at three rates each give the scales. The components are
weighted by their recent code length.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from songcast.forecasting.distribution import LogisticMixture
from songcast.forecasting.linear_kernels import RANK
from songcast.forecasting.simd import padded
from songcast.forecasting.stacking_kernels import (
    FIRST_VARIANCE,
    follow_errors,
    mix,
    stack,
)

STACK_FORGETTING = (0.995, 0.9995)
# A regression that forgets slowly changes slowly: solving it less often gives the same result.
STACK_SOLVE_EVERY = (16, 64)
STACK_RIDGE = 10.0
SCALE_RATES = (1 / 16, 1 / 64, 1 / 512)
WEIGHT_FORGETTING, LEAST_WEIGHT = 0.99, 1e-4
ERROR_RATE = 1 / 128
FIRST_ERROR_LSB = 100.0
# One per scale rate: for any first sample one of these widths is about right. The component with
# the highest rate starts widest, because it adapts soonest.
FIRST_RUNNING_LSB = (9000.0, 300.0, 10.0)
# The component whose running error is the unit of the features: the slow regression's at the
# middle rate.
UNIT_INDEX = 4

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedBlock:
    """A block of samples and the predictions of each sample from the past alone.

    ``samples``: (frames, channels) int16. ``means``: (frames, channels, experts) float32, LSB,
    each expert's prediction. ``expert_error``: the same shape, each expert's running mean |error|.
    ``weights``, ``locations``, ``scales``: (frames, channels, M) float64, the stacking's mixture.
    The rest is (frames, channels) float64: ``unit``, LSB, the running mean |error| of the slow
    regression at the middle rate; ``mean``, LSB, ``low`` and ``mass`` of the mixture, see
    ``distribution_kernels.measure``. In memory the channels come first.
    """

    samples: NDArray[np.int16]
    means: F32
    expert_error: F32
    weights: F64
    locations: F64
    scales: F64
    unit: F64
    mean: F64
    low: F64
    mass: F64

    @property
    def mixture(self) -> LogisticMixture:
        """The distributions of the block."""
        return LogisticMixture(weights=self.weights, locations=self.locations, scales=self.scales)


class Stacking:
    """Combines the experts of one song; the channels are independent of each other."""

    components = len(STACK_FORGETTING) * len(SCALE_RATES)
    scale_rates = SCALE_RATES * len(STACK_FORGETTING)

    def __init__(self, channels: int, experts: int) -> None:
        self._channels = [_Channel(experts) for _ in range(channels)]
        first = [*FIRST_RUNNING_LSB * len(STACK_FORGETTING), *[0.0] * self.components, 0.0]
        # (channels, state), as in ``mix_locations``.
        self.mixing = np.array([first] * channels)

    def combine(self, samples: NDArray[np.int16], means: F32) -> EncodedBlock:
        """Combine ``means`` (frames, channels, experts) in LSB, then adapt to ``samples``.

        The state is carried from call to call: the result does not depend on the size of the
        blocks, bit for bit.
        """
        # Channels first: the values of a channel are contiguous for any number of frames. Numba
        # compiles another loop with other rounding for strided arrays, and the array of a single
        # frame never counts as strided.
        shape = samples.shape[::-1]
        own_means = np.ascontiguousarray(means.swapaxes(0, 1))
        errors = np.empty(own_means.shape, np.float32)
        weights, locations, scales = np.empty((3, *shape, self.components))
        unit, mean, low, mass = np.empty((4, *shape))
        for c, channel in enumerate(self._channels):
            x = samples[:, c].astype(np.float64)
            channel.locate(x, own_means[c], errors[c], locations[c])
            outputs = (weights[c], scales[c], unit[c], mean[c], low[c], mass[c])
            mix_locations(x, locations[c], self.mixing[c], *outputs)
        return EncodedBlock(
            samples=samples,
            means=own_means.swapaxes(0, 1),
            expert_error=errors.swapaxes(0, 1),
            weights=weights.swapaxes(0, 1),
            locations=locations.swapaxes(0, 1),
            scales=scales.swapaxes(0, 1),
            unit=unit.T,
            mean=mean.T,
            low=low.T,
            mass=mass.T,
        )


def mix_locations(x: F64, locations: F64, state: F64, *outputs: F64) -> None:
    """Write the ``outputs`` of ``stacking_kernels.mix``, then adapt to ``x`` (frames,).

    State: running errors and log weights of the components, and the number of frames.
    """
    size = Stacking.components
    rates = np.array(Stacking.scale_rates)
    running, log_weights, count = state[:size], state[size:-1], int(state[-1])
    settings = rates, WEIGHT_FORGETTING, LEAST_WEIGHT, count
    mix(x, locations, *settings, running, log_weights, UNIT_INDEX, *outputs)
    state[-1] += len(x)


class _Channel:
    """The state of one channel's regressions."""

    def __init__(self, experts: int) -> None:
        settings = zip(STACK_FORGETTING, STACK_SOLVE_EVERY, strict=True)
        self._regressions = [_Regression(experts, *setting) for setting in settings]
        self._frames = 0
        self._errors = np.full(experts, FIRST_ERROR_LSB)

    def locate(self, x: F64, means: F32, errors: F32, locations: F64) -> None:
        """Write the running ``errors`` of the experts and the ``locations`` of the mixture."""
        centre = np.empty(len(x))
        follow_errors(x, means, ERROR_RATE, self._frames, self._errors, errors, centre)
        predicted = [r.predict(x, means, errors, centre) for r in self._regressions]
        locations[:] = np.repeat(np.stack(predicted, axis=-1), len(SCALE_RATES), axis=-1)
        self._frames += len(x)


class _Regression:
    """The state of one exponentially forgetting ridge regression on the experts."""

    def __init__(self, experts: int, forgetting: float, solve_every: int) -> None:
        self._forgetting = forgetting
        self._solve_every = solve_every
        self._state = np.array([FIRST_VARIANCE, 0.0])
        size = max(padded(experts), RANK)
        self._matrix = np.zeros((2, size, size))
        self._vectors = np.zeros((4, size))
        self._rows = np.zeros((RANK + 1, size))

    def predict(self, x: F64, means: F32, errors: F32, centre: F64) -> F64:
        """Return the stacked means (frames,) of one channel in LSB, then adapt to ``x``."""
        out = np.empty(len(x))
        stack(
            x,
            means,
            errors,
            centre,
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

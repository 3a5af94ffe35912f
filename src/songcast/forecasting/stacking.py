"""Stacking: the experts' means of each sample become one distribution, causally.

Two ridge regressions on the experts' means, one that forgets quickly and one that forgets slowly,
give the locations. Running mean errors at three rates each give the scales. The components are
weighted by their recent code length.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from songcast.forecasting.distribution import MeasuredMixture
from songcast.forecasting.linear_kernels import RANK
from songcast.forecasting.simd import padded
from songcast.forecasting.stacking_kernels import FIRST_VARIANCE, follow_errors, mix, stack

# Forgetting, and frames between solutions. A regression that forgets slowly changes slowly:
# solving it less often gives the same result.
REGRESSIONS = ((0.995, 16), (0.9995, 64))
SCALE_RATES = (1 / 16, 1 / 64, 1 / 512)
RATES = np.array(SCALE_RATES * len(REGRESSIONS))
FIRST_ERROR_LSB = 100.0
# One per scale rate: for any first sample one of these widths is about right. The component with
# the highest rate starts widest, because it adapts soonest.
FIRST_RUNNING_LSB = (9000.0, 300.0, 10.0)

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedBlock(MeasuredMixture):
    """A block of samples and the predictions of each sample from the past alone.

    ``samples``: (frames, channels) int16. ``means``: (frames, channels, experts) float32, LSB,
    each expert's prediction. ``expert_error``: (channels, frames, experts) float32, each expert's
    running mean |error|. ``unit``: (channels, frames) float64, LSB, the running mean |error|
    of the slow regression at the middle rate. The mixture is the stacking's.
    """

    samples: NDArray[np.int16]
    means: F32
    expert_error: F32
    unit: F64


class Stacking:
    """Combines the experts of one song; the channels are independent of each other."""

    components = len(RATES)

    def __init__(self, channels: int, experts: int) -> None:
        size = max(padded(experts), RANK)
        self._frames = 0
        self._errors = np.full((channels, experts), FIRST_ERROR_LSB)
        # By channel and regression, as in ``stack``.
        self._states = [
            [
                (
                    np.array([FIRST_VARIANCE, 0.0]),
                    np.zeros((2, size, size)),
                    np.zeros((4, size)),
                    np.zeros((RANK + 1, size)),
                )
                for _ in REGRESSIONS
            ]
            for _ in range(channels)
        ]
        first = [*FIRST_RUNNING_LSB * len(REGRESSIONS), *[0.0] * self.components, 0.0]
        # (channels, state), as in ``mix``.
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
        for c in range(len(own_means)):
            x = samples[:, c].astype(np.float64)
            centre, stacked = np.empty(len(x)), np.empty((len(REGRESSIONS), len(x)))
            follow_errors(x, own_means[c], self._frames, self._errors[c], errors[c], centre)
            inputs = x, own_means[c], errors[c], centre
            for settings, state, out in zip(REGRESSIONS, self._states[c], stacked, strict=True):
                stack(*inputs, *settings, *state, out)
            locations[c] = np.repeat(stacked.T, len(SCALE_RATES), axis=-1)
            outputs = weights[c], scales[c], unit[c], mean[c], low[c], mass[c]
            mix(x, locations[c], RATES, self.mixing[c], *outputs)
        self._frames += len(samples)
        return EncodedBlock(
            samples=samples,
            means=means,
            expert_error=errors,
            unit=unit,
            weights=weights,
            locations=locations,
            scales=scales,
            mean=mean,
            low=low,
            mass=mass,
        )

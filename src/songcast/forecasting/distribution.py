"""The discrete logistic mixture: every forecaster's distribution over int16.

Source: Salimans et al., "PixelCNN++", ICLR 2017 (discretised logistic mixture).
The mass of value ``v`` is CDF(v + 1/2) - CDF(v - 1/2); the two outermost values take the
tails, so the 65 536 masses sum to 1. A small uniform part keeps every mass above zero.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LOWEST, HIGHEST = -32768, 32767
VALUES = HIGHEST - LOWEST + 1
# Forecasters process songs in blocks of this many frames.
BLOCK_FRAMES = 4096
UNIFORM_SHARE = 2.0**-16
MIN_SCALE_LSB, MAX_SCALE_LSB = 0.02, 32768.0

Floats = NDArray[np.float64]


def to_int16(values: Floats) -> NDArray[np.int16]:
    """Return ``values`` in LSB, rounded and clipped to int16."""
    return np.clip(np.rint(values), LOWEST, HIGHEST).astype(np.int16)


@dataclass(frozen=True, kw_only=True)
class LogisticMixture:
    """A distribution for each sample of a passage.

    ``weights``, ``locations``, ``scales``: (frames, channels, mixtures) float64. Weights are
    positive and sum to 1 over the last axis; locations and scales are in LSB. Scales are
    clipped to [0.02, 32 768] and locations to the int16 range, so that nothing overflows.
    """

    weights: Floats
    locations: Floats
    scales: Floats

    def __post_init__(self) -> None:
        object.__setattr__(self, "locations", np.clip(self.locations, LOWEST, HIGHEST))
        object.__setattr__(self, "scales", np.clip(self.scales, MIN_SCALE_LSB, MAX_SCALE_LSB))

    @property
    def mean(self) -> Floats:
        """Expected value in LSB, (frames, channels) float64, within the int16 range."""
        return np.asarray(np.einsum("tcm,tcm->tc", self.weights, self.locations))

    def bits(self, samples: NDArray[np.int16] | Floats) -> Floats:
        """Code length -log2 P(x) of each sample, (frames, channels) float64, at most 32."""
        x = samples.astype(np.float64)[..., None]
        mass = _component_mass(x, self.locations, self.scales)
        p = np.einsum("tcm,tcm->tc", self.weights, mass)
        return np.asarray(-np.log2((1.0 - UNIFORM_SHARE) * p + UNIFORM_SHARE / VALUES))

    def masses(self, frame: int, channel: int) -> Floats:
        """Return P(x) of the values -32 768 … 32 767 at one sample: (65 536,), sums to 1."""
        x = np.arange(LOWEST, HIGHEST + 1, dtype=np.float64)[:, None]
        mass = _component_mass(x, self.locations[frame, channel], self.scales[frame, channel])
        mixed: Floats = mass @ self.weights[frame, channel]
        return (1.0 - UNIFORM_SHARE) * mixed + UNIFORM_SHARE / VALUES


def _component_mass(x: Floats, locations: Floats, scales: Floats) -> Floats:
    """Return the mass of ``x`` under each component, precise in both tails; broadcasts."""
    # Imported here because SciPy loads slowly and the CLI needs this module's constants only.
    from scipy.special import expit

    distance = x - locations
    # Both CDFs near 1 would cancel: measure from the nearer tail instead.
    mirrored = distance > 0
    nearer = -np.abs(distance)
    upper = expit((nearer + 0.5) / scales)
    lower = expit((nearer - 0.5) / scales)
    bottom = (x == LOWEST) | (x == HIGHEST)
    if not np.any(bottom):
        return np.asarray(upper - lower)
    # The outermost values have the mass of their tails, outside the range.
    at_tail = ((x == LOWEST) & ~mirrored) | ((x == HIGHEST) & mirrored)
    far_side = ((x == LOWEST) & mirrored) | ((x == HIGHEST) & ~mirrored)
    mass = np.where(at_tail, upper, upper - lower)
    return np.asarray(np.where(far_side, 1.0 - lower, mass))

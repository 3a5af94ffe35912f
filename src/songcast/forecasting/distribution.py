"""The discrete logistic mixture: the distribution of a forecaster over int16.

Source: Salimans et al., "PixelCNN++", ICLR 2017 (discretised logistic mixture).
The mass of value ``v`` is CDF(v + 1/2) - CDF(v - 1/2); the two outermost values take the
tails, so the 65 536 masses sum to 1. A small uniform part keeps every mass above zero.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from songcast.forecasting.distribution_kernels import (
    HIGHEST,
    LOWEST,
    MAX_SCALE_LSB,
    MIN_SCALE_LSB,
    UNIFORM_SHARE,
    VALUES,
    measure,
)

Floats = NDArray[np.float64]

ALL_VALUES = np.arange(LOWEST, HIGHEST + 1.0)
# Forecasters process songs in blocks of this many frames.
BLOCK_FRAMES = 4096


def to_int16(values: Floats) -> NDArray[np.int16]:
    """Return ``values`` in LSB, rounded and clipped to int16."""
    return np.clip(np.rint(values), LOWEST, HIGHEST).astype(np.int16)


class Distribution(ABC):
    """A distribution over int16 for each sample of a passage."""

    @property
    @abstractmethod
    def mean(self) -> Floats:
        """Expected value in LSB, (frames, channels) float64, within the int16 range."""

    @abstractmethod
    def bits(self, samples: NDArray[np.int16]) -> Floats:
        """Code length -log2 P(x) of each sample, (frames, channels) float64, at most 32."""

    @abstractmethod
    def masses(self, frame: int, channel: int) -> Floats:
        """Return P(x) of the values -32 768 … 32 767 at one sample: (65 536,), sums to 1."""


@dataclass(frozen=True, kw_only=True)
class LogisticMixture(Distribution):
    """A mixture of logistics for each sample of a passage.

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
        return code_lengths(self.measured(samples)[1].T)

    def measured(self, samples: NDArray[np.int16] | Floats) -> tuple[Floats, Floats]:
        """Return CDF(x - 1/2) and P(x) of each sample, (channels, frames), no uniform part."""
        parts = [self._measure(x, slice(None), c) for c, x in enumerate(samples.T)]
        low, mass = (np.stack(part) for part in zip(*parts, strict=True))
        return low, mass

    def masses(self, frame: int, channel: int) -> Floats:
        """Return P(x) of the values -32 768 … 32 767 at one sample: (65 536,), sums to 1."""
        return with_uniform(self.cdf(frame, channel)[1])

    def cdf(self, frame: int, channel: int) -> tuple[Floats, Floats]:
        """Return CDF(v - 1/2) and the mass of each value v without the uniform part."""
        return self._measure(ALL_VALUES, np.full(VALUES, frame), channel)

    def _measure(
        self, x: NDArray[np.int16] | Floats, frames: slice | NDArray[np.int64], channel: int
    ) -> tuple[Floats, Floats]:
        mean, low, mass = np.empty((3, len(x)))
        weights, locations, scales = (
            np.ascontiguousarray(part[frames, channel])
            for part in (self.weights, self.locations, self.scales)
        )
        unmoved = np.tile([0.0, 1.0], (len(x), 1))
        own = np.ascontiguousarray(x, np.float64)
        measure(own, weights, locations, scales, unmoved, mean, low, mass)
        return low, mass


@dataclass(frozen=True, kw_only=True, eq=False)
class MeasuredMixture:
    """The mixtures of a block, measured on its samples; all arrays are float64, channels first.

    ``weights``, ``locations``, ``scales``: (channels, frames, M), as in ``LogisticMixture``.
    ``mean`` (LSB), ``low`` and ``mass``: (channels, frames), see ``distribution_kernels.measure``.
    """

    weights: Floats
    locations: Floats
    scales: Floats
    mean: Floats
    low: Floats
    mass: Floats

    @property
    def mixture(self) -> LogisticMixture:
        """The distributions of the block."""
        weights, locations, scales = (
            part.swapaxes(0, 1) for part in (self.weights, self.locations, self.scales)
        )
        return LogisticMixture(weights=weights, locations=locations, scales=scales)


def with_uniform(mass: Floats) -> Floats:
    """Return ``mass`` with the small uniform part that keeps every mass above zero."""
    return (1.0 - UNIFORM_SHARE) * mass + UNIFORM_SHARE / VALUES


def code_lengths(mass: Floats) -> Floats:
    """Return the bits of samples with these masses, which lack the uniform part."""
    return np.asarray(-np.log2(with_uniform(mass)))

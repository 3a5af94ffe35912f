"""Adaptive stages behind a frozen network: bias stage, match stage, averaging, calibration.

They are causal, and their results do not depend on the size of the blocks, bit for bit.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from songcast.forecasting.adaptation_kernels import average, normalise
from songcast.forecasting.calibration import BINS, Calibration
from songcast.forecasting.distribution import (
    Distribution,
    LogisticMixture,
    MeasuredMixture,
    code_lengths,
    with_uniform,
)
from songcast.forecasting.distribution_kernels import measure
from songcast.forecasting.filter_bank import StageFilters
from songcast.forecasting.filter_bank_settings import Chain, LeastSquares, Lms
from songcast.forecasting.match_model import MatchModel

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

BIAS_CHAIN: Chain = (
    LeastSquares(own_taps=32, other_taps=32, forgetting=0.9998, ridge=300.0, solve_every=64),
    Lms(taps=2048, step=0.01),
)
# Limit of a shift, in widths.
MAX_SHIFT = 1.0
# The first model's lead at the start.
FIRST_LOG2_ODDS = 2.0


class BiasStage:
    """Predicts the remaining error of a network and shifts its mixture accordingly.

    The errors of a frozen network are correlated in time, in each song in another way. Least
    squares over the errors of both channels and a long NLMS filter learn this correlation during
    the song. Errors are in units of the mixture's width, so loud passages do not dominate. Lossless
    audio codecs call such a stage the bias stage.
    """

    def __init__(self, channels: int) -> None:
        self._filters = [StageFilters(stage, channels) for stage in BIAS_CHAIN]

    def correct(self, x: F64, weights: F64, locations: F64, scales: F64) -> MeasuredMixture:
        """Return the mixture shifted by its predicted error, then adapt to ``x``.

        ``x``: (channels, frames) float64, the samples. The mixture is (channels, frames, M),
        contiguous, and clipped to the valid range in place.
        """
        width, residual = normalised(x, weights, locations, scales)
        expected = np.zeros(x.shape)
        for filters in self._filters:
            predicted = filters.predict(residual)
            residual = residual - predicted
            expected += predicted
        shift = width * np.clip(expected, -MAX_SHIFT, MAX_SHIFT)
        return moved(x, (weights, locations, scales), shift, 1.0)


class MatchStage:
    """Predicts the errors behind the bias stage from earlier passages, see ``match_model``."""

    def __init__(self, channels: int) -> None:
        self._match_model = MatchModel(channels)

    def candidates(self, x: F64, model: MeasuredMixture) -> list[MeasuredMixture]:
        """Return ``model`` moved, and moved and scaled; then adapt to ``x`` (channels, frames)."""
        parts = (model.weights, model.locations, model.scales)
        width, errors = normalised(x, *parts)
        predicted, ratios = self._match_model.predict(errors)
        shift = width * predicted
        return [moved(x, parts, shift, ratio) for ratio in (1.0, ratios)]


def normalised(x: F64, weights: F64, locations: F64, scales: F64) -> tuple[F64, F32]:
    """Return the width and the error that ``normalise`` writes for ``x`` (channels, frames)."""
    width, error = np.empty(x.shape), np.empty(x.shape, np.float32)
    normalise(x, weights, locations, scales, width, error)
    return width, error


def moved(x: F64, mixture: tuple[F64, F64, F64], shift: F64, ratio: F32 | float) -> MeasuredMixture:
    """Return ``mixture`` moved by ``shift`` LSB and scaled by ``ratio``, as measured on ``x``.

    ``mixture``: weights, locations and scales, (channels, frames, M). ``x``, ``shift`` and, unless
    it is a number, ``ratio``: (channels, frames).
    """
    mean, low, mass = np.empty((3, *x.shape))
    moves = np.empty((*x.shape, 2))
    moves[..., 0], moves[..., 1] = shift, ratio
    weights, locations, scales = mixture
    for c in range(len(x)):
        part = (mean[c], low[c], mass[c])
        measure(x[c], weights[c], locations[c], scales[c], moves[c], *part)
    locations, scales = locations + moves[..., :1], scales * moves[..., 1:]
    return MeasuredMixture(
        weights=weights, locations=locations, scales=scales, mean=mean, low=low, mass=mass
    )


class ModelAveraging:
    """Bayesian average of several models, weighted by recent code length.

    The log odds are leaky sums of the code lengths: a frozen network that fails on an unusual song
    costs a few bits once, not in every sample. The first model is favoured at the start.
    """

    def __init__(self, channels: int, models: int) -> None:
        self._log_odds = np.zeros((channels, models))
        self._log_odds[:, 1:] = -FIRST_LOG2_ODDS

    def average(self, models: Sequence[MeasuredMixture], samples: NDArray[np.int16]) -> "Average":
        """Return the average of ``models``, then adapt the odds to ``samples``.

        ``samples``: (frames, channels) int16, of which the models know the masses.
        """
        frames, channels = samples.shape
        shares = np.empty((channels, frames, len(models)))
        mean, low, mass = np.empty((3, channels, frames))
        measures = zip(*((model.mean, model.low, model.mass) for model in models), strict=True)
        means, lows, masses = (np.stack(part, axis=1) for part in measures)
        for c in range(channels):
            outputs = shares[c], mean[c], low[c], mass[c]
            average(means[c], lows[c], masses[c], self._log_odds[c], *outputs)
        return Average(models=models, samples=samples, shares=shares, mean=mean, low=low, mass=mass)


@dataclass(frozen=True, kw_only=True, eq=False)
class Average:
    """The average of ``models`` with ``shares`` (channels, frames, models) for each sample.

    ``samples``: (frames, channels) int16. ``mean``, ``low`` and ``mass``: (channels, frames), as
    in ``MeasuredMixture``.
    """

    models: Sequence[MeasuredMixture]
    samples: NDArray[np.int16]
    shares: F64
    mean: F64
    low: F64
    mass: F64

    @cached_property
    def mixture(self) -> LogisticMixture:
        """All components in one mixture."""
        weights = [self.shares[..., k, None] * m.weights for k, m in enumerate(self.models)]
        return LogisticMixture(
            weights=np.concatenate(weights, axis=-1).swapaxes(0, 1),
            locations=np.concatenate([m.locations for m in self.models], axis=-1).swapaxes(0, 1),
            scales=np.concatenate([m.scales for m in self.models], axis=-1).swapaxes(0, 1),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibrated(Distribution):
    """A calibrated ``average``; ``before``: the state of the calibration before its first frame.

    ``mass``: (channels, frames) float64, of the samples of ``average``. The mean is the average's.
    """

    average: Average
    before: Calibration
    mass: F64

    @classmethod
    def of(cls, average: Average, calibration: Calibration) -> "Calibrated":
        """Calibrate ``average``, then adapt ``calibration`` to its samples."""
        before = copy.deepcopy(calibration)
        mass = calibration.calibrate(average.low, average.mass)
        return cls(average=average, before=before, mass=mass)

    @property
    def mean(self) -> F64:
        """Expected value before the calibration in LSB, (frames, channels) float64."""
        return self.average.mean.T

    def bits(self, samples: NDArray[np.int16]) -> F64:
        """Code length -log2 P(x) of each sample, (frames, channels) float64, at most 32."""
        mass = self.mass
        if not np.array_equal(samples, self.average.samples):
            at = self.average.mixture.measured(samples)
            mass = copy.deepcopy(self.before).calibrate(self.average.low, self.average.mass, at)
        return code_lengths(mass.T)

    def masses(self, frame: int, channel: int) -> F64:
        """Return P(x) of the values -32 768 … 32 767 at one sample: (65 536,), sums to 1."""
        low, mass = self.average.mixture.cdf(frame, channel)
        bins = np.linspace(0.0, 1.0, BINS + 1)
        below, above = np.interp([low, low + mass], bins, self.edges(frame, channel))
        return with_uniform(above - below)

    def edges(self, frame: int, channel: int) -> F64:
        """Return the calibrated CDF at the edges of the bins, for one sample."""
        calibration = copy.deepcopy(self.before)
        low, mass = self.average.low, self.average.mass
        calibration.calibrate(low[:, :frame], mass[:, :frame])
        other = low[0, frame] + 0.5 * mass[0, frame] if channel else None
        return calibration.edges(channel, other)

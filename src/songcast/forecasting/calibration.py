"""Calibration: an adaptive monotone map of a distribution's CDF, the last stage of a forecast.

CDF(x) of a sample is uniform on [0, 1] if its distribution is right. Histograms of it show where
it is not, one for each level of several small contexts. Their average with the uniform density,
weighted by recent code length, is the density of a map ``G`` of [0, 1] to itself: piecewise linear,
monotone, G(0) = 0 and G(1) = 1. The masses ``G(CDF(x + 1/2)) - G(CDF(x - 1/2))`` of all values
thus sum to 1. Sources: secondary symbol estimation of paq (Mahoney, 2005); recalibration by
the probability integral transform (Dawid, 1984; Kuleshov et al., ICML 2018).

For each sample: ``prepare`` computes ``edges``, the values of G at the edges of the bins, from the
past; ``calibrated(edges, u)`` is G(u), and ``calibrated_mass`` its difference, precise for small
masses; ``adapt`` updates the state. CDF(x - 1/2) is 0 for the lowest value and CDF(x + 1/2) is 1
for the highest. A small uniform part, as in ``LogisticMixture``, keeps masses above zero and has
to be added afterwards.
"""

import math

import numpy as np
from numpy.typing import NDArray

from songcast.forecasting.compiled import compiled, inlined

F64 = NDArray[np.float64]

BINS, LEVELS = 64, 8
# The contexts: mean distance of CDF(x) from 1/2 over 64 samples; CDF(x) of the other channel's
# latest sample; CDF(x) of the channel's last sample.
MAPS = 3
SLOWEST_RATE, FIRST_SAMPLES = 2e-4, 400.0
SIZE_RATE = 1 / 64
# Least density of a map: limits the cost of a surprise to 7 bits.
LEAST_DENSITY = 0.01
ODDS_FORGETTING = 0.998


class Calibration:
    """The state of all channels of a song, as plain arrays for compiled code.

    ``histograms`` (channels, MAPS, LEVELS, BINS) densities, mean 1; ``counts`` (channels, MAPS,
    LEVELS) samples; ``recent`` (channels, 2): CDF(x) of the last sample, mean of |2 CDF(x) - 1|;
    ``odds`` (channels, MAPS) log2 odds of each map against the unchanged distribution.
    """

    def __init__(self, channels: int) -> None:
        self.histograms = np.ones((channels, MAPS, LEVELS, BINS))
        self.counts = np.zeros((channels, MAPS, LEVELS))
        self.recent = np.full((channels, 2), 0.5)
        self.odds = np.zeros((channels, MAPS))

    def calibrate(self, lower: F64, mass: F64, at: tuple[F64, F64] | None = None) -> F64:
        """Return the calibrated masses of the samples, then adapt to them.

        ``lower``: CDF(x - 1/2), ``mass``: P(x), both (channels, frames) float64; ``at``: the same
        of other values, whose masses are returned instead.
        """
        lower, mass = np.ascontiguousarray(lower), np.ascontiguousarray(mass)
        out = np.empty(mass.shape)
        state = (self.histograms, self.counts, self.recent, self.odds)
        calibrate_block(lower, mass, *(at or (lower, mass)), *state, out)
        return out

    def edges(self, channel: int, other: float | None = None) -> F64:
        """Return G at the bins' edges, (BINS + 1,), for the next sample of ``channel``.

        ``other``: CDF of the first channel's present sample, for the second channel.
        """
        recent = self.recent.copy()
        if other is not None:
            recent[0, 0] = other
        edges = np.empty(BINS + 1)
        levels = np.empty(MAPS, np.int64)
        prepare(channel, self.histograms, recent, self.odds, levels, edges)
        return edges


@compiled
def calibrate_block(
    lower: F64,
    mass: F64,
    at_lower: F64,
    at_mass: F64,
    histograms: F64,
    counts: F64,
    recent: F64,
    odds: F64,
    out: F64,
) -> None:
    """Calibrate a block; see ``Calibration``."""
    edges, levels = np.empty(BINS + 1), np.empty(MAPS, np.int64)
    for t in range(mass.shape[1]):
        for c in range(len(mass)):
            prepare(c, histograms, recent, odds, levels, edges)
            out[c, t] = calibrated_mass(edges, at_lower[c, t], at_mass[c, t])
            adapt(c, lower[c, t], mass[c, t], histograms, counts, recent, odds, levels)


@inlined
def prepare(
    channel: int, histograms: F64, recent: F64, odds: F64, levels: NDArray[np.int64], edges: F64
) -> None:
    """Write the ``levels`` of the contexts (MAPS,) and ``edges`` (BINS + 1,), G at the edges."""
    other = recent[1 - channel, 0] if len(recent) == 2 else 0.5
    levels[0] = min(max(int(recent[channel, 1] * 16.0 - 4.0), 0), LEVELS - 1)
    levels[1] = min(int(other * LEVELS), LEVELS - 1)
    levels[2] = min(int(recent[channel, 0] * LEVELS), LEVELS - 1)
    top = 0.0
    for k in range(MAPS):
        top = max(top, odds[channel, k])
    total = 2.0**-top
    for b in range(BINS):
        edges[b + 1] = total
    for k in range(MAPS):
        share, row = 2.0 ** (odds[channel, k] - top), histograms[channel, k, levels[k]]
        total += share
        for b in range(BINS):
            edges[b + 1] += share * row[b]
    edges[0] = 0.0
    for b in range(BINS):
        edges[b + 1] += edges[b]
    last = edges[BINS]
    for b in range(BINS + 1):
        edges[b] /= last


@inlined
def calibrated(edges: F64, u: float) -> float:
    """Return G(u) of ``u`` in [0, 1]."""
    at = min(max(u, 0.0), 1.0) * BINS
    b = min(int(at), BINS - 1)
    return float(edges[b] + (at - b) * (edges[b + 1] - edges[b]))


@inlined
def calibrated_mass(edges: F64, lower: float, mass: float) -> float:
    """Return G(lower + mass) - G(lower), without cancellation for a small ``mass``."""
    low = min(max(lower, 0.0), 1.0) * BINS
    first, last = min(int(low), BINS - 1), min(int(low + mass * BINS), BINS - 1)
    if first == last:
        return float(mass * BINS * (edges[first + 1] - edges[first]))
    return calibrated(edges, lower + mass) - calibrated(edges, lower)


@inlined
def adapt(
    channel: int,
    lower: float,
    mass: float,
    histograms: F64,
    counts: F64,
    recent: F64,
    odds: F64,
    levels: NDArray[np.int64],
) -> None:
    """Update the state with a sample whose CDF covers ``lower`` to ``lower + mass``."""
    low = min(max(lower, 0.0), 1.0) * BINS
    high = min(low + mass * BINS, 1.0 * BINS)
    first, last = min(int(low), BINS - 1), min(int(high), BINS - 1)
    spread = 1.0 / (high - low) if last > first else 1.0
    for k in range(MAPS):
        row = histograms[channel, k, levels[k]]
        rate = max(1.0 / (counts[channel, k, levels[k]] + FIRST_SAMPLES), SLOWEST_RATE)
        counts[channel, k, levels[k]] += 1.0
        density = row[first]
        if last > first:
            density = 0.0
            for b in range(first, last + 1):
                density += spread * (min(high, b + 1.0) - max(low, 1.0 * b)) * row[b]
        odds[channel, k] = ODDS_FORGETTING * odds[channel, k] + math.log2(density)
        for b in range(BINS):
            row[b] += rate * (LEAST_DENSITY - row[b])
        gain = rate * BINS * (1.0 - LEAST_DENSITY)
        if last == first:
            row[first] += gain
        else:
            for b in range(first, last + 1):
                row[b] += gain * spread * (min(high, b + 1.0) - max(low, 1.0 * b))
    u = min(max(lower + 0.5 * mass, 0.0), 1.0)
    recent[channel, 0] = u
    recent[channel, 1] += SIZE_RATE * (abs(2.0 * u - 1.0) - recent[channel, 1])

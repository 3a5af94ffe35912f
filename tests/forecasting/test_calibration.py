"""Calibration: a proper, causal distribution that learns where another one is wrong."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy.stats import logistic

from songcast.forecasting.calibration import BINS, Calibration

VALUES = np.arange(-32768, 32768)


def cdf_and_mass(x, location, scale):
    """CDF(x - 1/2) and P(x) of a discretised logistic; the outermost values take the tails."""
    edges = logistic.cdf(np.stack([x - 0.5, x + 0.5]), location, scale)
    edges[0][x == VALUES[0]], edges[1][x == VALUES[-1]] = 0.0, 1.0
    return edges[0], edges[1] - edges[0]


def samples(frames, channels=2, seed=0):
    """Samples of a narrower law than the forecast's: (channels, frames) int."""
    return np.rint(np.random.default_rng(seed).normal(0, 20, (channels, frames)))


def test_a_distribution_that_is_wrong_is_corrected():
    lower, mass = cdf_and_mass(samples(20000), 5.0, 30.0)
    better = Calibration(2).calibrate(lower, mass)
    saved = np.log2(better / mass).mean(axis=1)
    # The best gain is the divergence of the two laws.
    x = np.arange(-200.0, 201.0)
    truth = np.exp(-0.5 * (x / 20) ** 2)
    truth /= truth.sum()
    divergence = np.sum(truth * np.log2(truth / cdf_and_mass(x, 5.0, 30.0)[1]))
    assert np.all(saved > 0.75 * divergence)
    assert np.all(saved <= divergence + 0.02)


def test_a_distribution_that_is_right_loses_little():
    x = np.rint(logistic.rvs(0, 30, size=(1, 20000), random_state=0))
    lower, mass = cdf_and_mass(x, 0.0, 30.0)
    assert np.log2(Calibration(1).calibrate(lower, mass) / mass).mean() > -0.01


def test_the_masses_of_all_values_sum_to_one():
    calibration = Calibration(2)
    calibration.calibrate(*cdf_and_mass(samples(3000), 5.0, 30.0))
    for location, scale in ((0.0, 30.0), (-32768.0, 5.0), (40000.0, 300.0), (0.3, 0.02)):
        lower = cdf_and_mass(VALUES, location, scale)[0]
        for channel, other in ((0, None), (1, 0.7)):
            edges = calibration.edges(channel, other)
            assert edges[0] == 0.0 and edges[-1] == 1.0 and np.all(np.diff(edges) > 0)
            grid = np.linspace(0, 1, BINS + 1)
            upper = np.interp(np.append(lower[1:], 1.0), grid, edges)
            assert np.sum(upper - np.interp(lower, grid, edges)) == pytest.approx(1.0, abs=1e-12)


def test_the_mass_of_a_sample_is_that_of_its_value():
    # The map for all values and the masses of the samples come from the same state.
    x = samples(1000)
    lower, mass = cdf_and_mass(x, 5.0, 30.0)
    whole = Calibration(2).calibrate(lower, mass)
    calibration = Calibration(2)
    calibration.calibrate(lower[:, :-1], mass[:, :-1])
    grid = np.linspace(0, 1, BINS + 1)
    for channel, other in ((0, None), (1, lower[0, -1] + 0.5 * mass[0, -1])):
        edges = calibration.edges(channel, other)
        ends = np.interp(lower[channel, -1] + np.array([0.0, mass[channel, -1]]), grid, edges)
        assert whole[channel, -1] == pytest.approx(np.diff(ends)[0], rel=1e-9)


def test_blocks_of_any_size_give_the_same_bits_and_only_the_past_matters():
    for channels in (1, 2):
        lower, mass = cdf_and_mass(samples(2000, channels), 5.0, 30.0)
        whole = Calibration(channels).calibrate(lower, mass)
        for size in (1, 700):
            calibration, parts = Calibration(channels), []
            for at in range(0, 2000, size):
                block = slice(at, at + size)
                parts.append(calibration.calibrate(lower[:, block], mass[:, block]))
            assert_array_equal(np.concatenate(parts, axis=1), whole)
        lower[:, 1500:], mass[:, 1500:] = 0.9, 1e-3
        assert_array_equal(Calibration(channels).calibrate(lower, mass)[:, :1500], whole[:, :1500])


def test_a_surprise_after_a_long_silence_is_not_impossible():
    frames = 200_000
    lower, mass = np.full((1, frames), 0.4), np.full((1, frames), 1e-3)
    lower[0, -1] = 0.8
    better = Calibration(1).calibrate(lower, mass)
    assert np.all(np.isfinite(better)) and better[0, -1] > 0.5 * 0.01 * mass[0, -1]
    for low, width in ((0.0, 1.0), (0.0, 0.0), (1.0, 0.0), (1.0, 1e-300)):
        extreme = Calibration(1).calibrate(np.full((1, 99), low), np.full((1, 99), width))
        assert np.all((extreme >= 0.0) & (extreme <= 1.0 + 1e-12))

"""The discrete logistic mixture is a distribution over int16, and bits are its code lengths."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import logistic

from songcast.forecasting.distribution import LogisticMixture
from songcast.forecasting.distribution_kernels import (
    MAX_SCALE_LSB,
    MIN_SCALE_LSB,
    UNIFORM_SHARE,
    VALUES,
)

LOWEST, HIGHEST = -32768, 32767
ALL = np.arange(LOWEST, HIGHEST + 1)
LOCATIONS = st.one_of(
    st.floats(-40000, 40000),
    st.sampled_from([float(LOWEST), float(HIGHEST), LOWEST + 0.5, HIGHEST - 0.5, 0.0, 0.5]),
    st.sampled_from([-1e30, 1e30]),
)
SCALES = st.one_of(
    st.floats(1e-3, 1e5),
    st.sampled_from([0.0, 1e-300, MIN_SCALE_LSB, 1.0, MAX_SCALE_LSB, 1e300]),
)
COMPONENTS = st.lists(st.tuples(st.floats(1e-6, 1.0), LOCATIONS, SCALES), min_size=1, max_size=4)
few = settings(max_examples=40)


def mixture(components: list[tuple[float, float, float]]) -> LogisticMixture:
    """One sample's mixture of (weight, location, scale); weights are normalised here."""
    w, loc, scale = np.array(components, np.float64).T
    return LogisticMixture(
        weights=(w / w.sum())[None, None],
        locations=loc[None, None],
        scales=scale[None, None],
    )


def bits_of_all(m: LogisticMixture) -> NDArray[np.float64]:
    """Code lengths of all 65 536 values under the one distribution of ``m``."""
    repeated = LogisticMixture(
        weights=np.repeat(m.weights, VALUES, axis=0),
        locations=np.repeat(m.locations, VALUES, axis=0),
        scales=np.repeat(m.scales, VALUES, axis=0),
    )
    return repeated.bits(ALL.astype(np.int16)[:, None])[:, 0]


@few
@given(COMPONENTS)
def test_masses_are_positive_and_sum_to_one_over_all_int16_values(components):
    masses = mixture(components).masses(0, 0)
    assert masses.shape == (65536,)
    assert np.all(masses >= UNIFORM_SHARE / VALUES * (1 - 1e-12))
    assert math.fsum(masses) == pytest.approx(1.0, abs=1e-9)


@few
@given(COMPONENTS)
def test_bits_are_the_negative_log_of_the_masses_and_at_most_32(components):
    m = mixture(components)
    bits = bits_of_all(m)
    np.testing.assert_allclose(bits, -np.log2(m.masses(0, 0)), rtol=1e-12, atol=1e-12)
    assert bits.min() >= 0.0
    assert bits.max() <= 32.0 + 1e-9


@few
@given(COMPONENTS)
def test_the_mean_lies_within_the_int16_range(components):
    mean = mixture(components).mean
    assert mean.shape == (1, 1)
    assert LOWEST * (1 + 1e-12) <= mean[0, 0] <= HIGHEST * (1 + 1e-12)


@few
@given(
    st.lists(
        st.tuples(st.floats(0.01, 1.0), st.floats(-30000, 30000), st.floats(0.5, 3000)),
        min_size=1,
        max_size=4,
    )
)
def test_masses_are_differences_of_the_cdf_of_scipys_logistic(components):
    m = mixture(components)
    edges = np.concatenate([[-np.inf], ALL[1:] - 0.5, [np.inf]])[:, None]
    cdf = logistic.cdf(edges, loc=m.locations[0, 0], scale=m.scales[0, 0])
    expected = np.diff(cdf @ m.weights[0, 0])
    expected = (1 - UNIFORM_SHARE) * expected + UNIFORM_SHARE / VALUES
    # The oracle cancels in the upper tail: it is good to 1e-15 absolutely.
    np.testing.assert_allclose(m.masses(0, 0), expected, rtol=1e-9, atol=1e-14)


def test_far_tails_keep_their_precision_on_both_sides():
    for side in [-1, 1]:
        for distance in [10, 20, 25]:
            x = 100 + side * distance
            m = mixture([(1.0, 100.0, 1.0)])
            # e^-k as a fraction of integers: 1/(1+e^(d-1/2)) - 1/(1+e^(d+1/2)), to 1e-15 relatively
            near, far = Fraction(math.exp(distance - 0.5)), Fraction(math.exp(distance + 0.5))
            mass = float(1 / (1 + near) - 1 / (1 + far))
            expected = -math.log2((1 - UNIFORM_SHARE) * mass + UNIFORM_SHARE / VALUES)
            assert m.bits(np.array([[x]], np.int16))[0, 0] == pytest.approx(expected, rel=1e-12)


def test_the_outermost_values_have_the_mass_of_the_tails():
    m = mixture([(1.0, 32767.0, 10.0)])
    # Half of a logistic lies beyond its location; the last value starts half a step before it.
    assert m.masses(0, 0)[-1] == pytest.approx(logistic.sf(-0.5, scale=10.0), rel=1e-4)
    m = mixture([(1.0, -32768.0, 10.0)])
    assert m.masses(0, 0)[0] == pytest.approx(logistic.cdf(0.5, scale=10.0), rel=1e-4)


def test_a_certain_forecast_costs_almost_nothing_if_right_and_32_bits_if_wrong():
    m = mixture([(1.0, 7.0, 0.0)])
    assert m.bits(np.array([[7]], np.int16))[0, 0] < 1e-3
    assert m.bits(np.array([[-500]], np.int16))[0, 0] == pytest.approx(32.0, abs=1e-6)


def test_empty_blocks_have_no_bits():
    empty = np.empty((0, 2, 3))
    m = LogisticMixture(weights=empty, locations=empty, scales=empty)
    assert m.mean.shape == (0, 2)
    assert m.bits(np.empty((0, 2), np.int16)).shape == (0, 2)

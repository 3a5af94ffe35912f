"""Lattice filters: stability, exact inversion, fit."""

import numpy as np
import pytest
from scipy.signal import lfilter

from songcast.continuation.lattice import Lattice, LatticeState

ORDER = 24
BLOCK = 512


def resonant(frames=8000, seed=0):
    """White noise through a known filter of order 4: (signal, its denominator)."""
    roots = np.array([0.97 * np.exp(0.3j), 0.9 * np.exp(1.2j)])
    denominator = np.real(np.poly(np.concatenate([roots, roots.conj()])))
    noise = np.random.default_rng(seed).normal(0, 50, frames)
    return lfilter([1.0], denominator, noise), denominator


def polynomial(reflection):
    """The prediction error filter of reflection coefficients, by the step-up recursion."""
    a = np.array([1.0])
    for k in reflection:
        a = np.concatenate([a, [0.0]]) + k * np.concatenate([[0.0], a[::-1]])
    return a


def rows(seed=0, frames=4 * BLOCK):
    return np.stack(
        [resonant(frames, seed)[0], np.random.default_rng(seed + 9).normal(0, 80, frames)]
    )


@pytest.mark.parametrize("fit", [Lattice.burg, Lattice.windowed])
def test_fit_recovers_the_generating_filter(fit):
    signal, denominator = resonant()
    result = fit(signal[None], ORDER)
    np.testing.assert_allclose(polynomial(result.reflection[0])[:5], denominator, atol=0.1)
    assert result.level[0] == pytest.approx(np.std(signal), rel=0.15)


@pytest.mark.parametrize("fit", [Lattice.burg, Lattice.windowed])
@pytest.mark.parametrize(
    "signal",
    [
        np.zeros(3000),
        np.full(3000, 20000.0),
        8000 * np.sin(np.arange(3000) * 0.1),
        32767 * np.sign(np.sin(np.arange(3000) * 0.05)),
        np.eye(1, 3000)[0] * 30000,
        np.arange(16.0),
    ],
    ids=["silence", "dc", "tone", "square", "click", "few"],
)
def test_filters_are_stable_for_extreme_signals(fit, signal):
    result = fit(signal[None], 64)
    assert np.all(np.abs(result.reflection) < 1)
    assert np.all(result.level > 0)
    ringing = LatticeState(1, 64).synthesise(np.eye(1, 4000) * 30.0, result, result)
    assert np.all(np.isfinite(ringing))


@pytest.mark.parametrize("channels", [1, 2])
def test_synthesis_inverts_analysis_with_moving_filters(channels):
    signal = rows()[:channels]
    filters = [Lattice.windowed(rows(seed)[:channels], ORDER) for seed in range(5)]
    there, back = LatticeState(channels, ORDER), LatticeState(channels, ORDER)
    for i in range(4):
        block = signal[:, i * BLOCK : (i + 1) * BLOCK]
        excitation = there.analyse(block, filters[i], filters[i + 1])
        np.testing.assert_allclose(
            back.synthesise(excitation, filters[i], filters[i + 1]), block, atol=1e-6
        )


def test_two_rows_equal_single_rows():
    signal, whole = rows(), Lattice.burg(rows(), ORDER)
    both = LatticeState(2, ORDER).analyse(signal, whole, whole)
    for r in range(2):
        alone = Lattice.burg(signal[r : r + 1], ORDER)
        result = LatticeState(1, ORDER).analyse(signal[r : r + 1], alone, alone)
        np.testing.assert_allclose(result[0], both[r], rtol=1e-9, atol=1e-9)


def test_white_noise_gives_the_level_of_the_filter():
    result = Lattice.burg(rows(), ORDER)
    noise = np.random.default_rng(1).normal(0, 1, (2, 60000))
    sound = LatticeState(2, ORDER).synthesise(noise, result, result)
    np.testing.assert_allclose(np.std(sound[:, 5000:], axis=1), result.level, rtol=0.15)


def test_random_filter_changes_keep_the_output_bounded():
    rng = np.random.default_rng(0)
    state = LatticeState(2, 64)

    def wild():
        return Lattice(reflection=rng.uniform(-0.999, 0.999, (2, 64)), level=np.ones(2))

    before, loudest = wild(), 0.0
    for _ in range(200):
        after = wild()
        loudest = max(
            loudest, np.abs(state.synthesise(rng.normal(0, 1, (2, 64)), before, after)).max()
        )
        before = after
    # A rotation keeps energy: at most that of all excitations together.
    assert loudest < np.sqrt(200 * 64 * 2 * 1.2)

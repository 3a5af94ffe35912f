"""Spectral measures have the expected values for known sounds."""

import numpy as np
import pytest

from songcast.evaluation import spectral

RATE_HZ = 22050
T = np.arange(RATE_HZ) / RATE_HZ


def tone(hz, amplitude=0.3):
    return amplitude * np.sin(2 * np.pi * hz * T)


def noise(seed=0, level=0.1):
    return np.random.default_rng(seed).normal(0, level, RATE_HZ)


def beats(times, seed=0):
    envelope = sum(np.exp(-np.maximum(T - t, 0) * 40) * (t <= T) for t in times)
    return noise(seed) * envelope + noise(seed + 1, 1e-3)


def test_equal_sounds_are_at_distance_zero():
    x = noise()
    assert spectral.log_mel_distance_db(x, x, RATE_HZ) == 0
    assert spectral.spectral_distance_db(x, x) == 0
    assert spectral.flatness_difference_db(x, x) == 0
    assert spectral.onset_correlation(x, x, RATE_HZ) == pytest.approx(1)
    assert spectral.chroma_similarity(x, x, RATE_HZ) == pytest.approx(1)


def test_half_the_amplitude_is_6_db_away():
    x = noise()
    assert spectral.log_mel_distance_db(x, x / 2, RATE_HZ) == pytest.approx(6.02, abs=0.01)
    assert spectral.spectral_distance_db(x, x / 2) == pytest.approx(6.02, abs=0.05)
    assert spectral.level_db(x / 2) - spectral.level_db(x) == pytest.approx(-6.02, abs=0.01)


def test_a_full_scale_sine_is_at_0_db_in_its_mel_band():
    levels = spectral.log_mel_db(tone(1000, 1.0), RATE_HZ)
    assert levels.max() == pytest.approx(0, abs=2.5)
    assert spectral.level_db(tone(1000, 1.0)) == pytest.approx(-3.01, abs=0.01)


def test_onsets_at_the_same_moments_correlate_and_others_do_not():
    same = spectral.onset_correlation(beats([0.1, 0.5]), beats([0.1, 0.5], 5), RATE_HZ)
    other = spectral.onset_correlation(beats([0.1, 0.5]), beats([0.3, 0.8], 5), RATE_HZ)
    assert same > 0.8
    assert other < 0.3
    assert spectral.onset_correlation(beats([0.1]), np.zeros(RATE_HZ), RATE_HZ) == 0


def test_chroma_compares_pitch_classes_across_octaves():
    a = spectral.chroma_similarity(tone(220.0), tone(440.0), RATE_HZ)
    b = spectral.chroma_similarity(tone(220.0), tone(311.1), RATE_HZ)
    assert a > 0.9
    assert b < 0.3


def test_noise_is_flatter_than_a_tone():
    assert spectral.flatness_difference_db(tone(500), noise()) > 20
    assert spectral.flatness_difference_db(noise(), tone(500)) < -20


def test_shares_of_silence_and_clipping():
    half = np.where(T < 0.5, noise(), 0.0)
    assert spectral.silent_share(half, RATE_HZ) == pytest.approx(0.5, abs=0.03)
    samples = np.array([[0], [32767], [-32768], [5]], np.int16)
    assert spectral.clipped_share(samples) == 0.5


def test_short_passages_and_silence_have_finite_measures():
    for frames in [1, 100, 882]:
        x = noise()[:frames]
        silence = np.zeros(frames)
        for a, b in ((x, x), (x, silence), (silence, x), (silence, silence)):
            assert np.isfinite(spectral.log_mel_distance_db(a, b, 8000))
            assert np.isfinite(spectral.spectral_distance_db(a, b))
            assert np.isfinite(spectral.flatness_difference_db(a, b))

"""Measures against numbers computed by hand and by numpy's correlation."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from helpers.small_models import music
from songcast.forecasting.metrics import (
    RunningMeasures,
    bits_per_sample,
    prediction_gain_db,
)


def lag_samples(x, mean, *max_lag):
    """The lag of a forecast that is given in one block."""
    running = RunningMeasures(x.shape[1], *max_lag)
    running.add(x, mean, np.zeros(x.shape))
    return running.lag_samples


def test_the_gain_is_ten_times_the_logarithm_of_the_energy_ratio_per_channel():
    x = np.array([[100, 3], [-100, 4]], np.int16)
    mean = np.array([[90.0, 3.0], [-110.0, 4.5]])
    # 20 000 / 200 = 100; 25 / 0.25 = 100
    np.testing.assert_allclose(prediction_gain_db(x, mean), [20.0, 20.0], rtol=1e-12)


def test_predicting_zero_gains_nothing_and_doubling_the_error_loses_6_db():
    x = music(1000, 2)
    np.testing.assert_allclose(prediction_gain_db(x, np.zeros(x.shape)), 0.0, atol=1e-12)
    error = np.random.default_rng(0).normal(size=x.shape)
    lost = prediction_gain_db(x, x - error) - prediction_gain_db(x, x - 2 * error)
    np.testing.assert_allclose(lost, 20 * np.log10(2.0), rtol=1e-9)


def test_the_loudest_song_does_not_overflow():
    x = np.full((100_000, 1), -32768, np.int16)
    # Error 65 535 against signal 32 768
    gain = prediction_gain_db(x, np.full(x.shape, 32767.0))
    np.testing.assert_allclose(gain, 20 * np.log10(32768 / 65535), rtol=1e-9)


def test_the_gain_of_silence_predicted_as_silence_is_0_and_of_a_perfect_prediction_infinite():
    silence = np.zeros((10, 1), np.int16)
    assert prediction_gain_db(silence, np.zeros((10, 1)))[0] == 0.0
    assert prediction_gain_db(silence, np.ones((10, 1)))[0] == -np.inf
    x = music(10, 1)
    assert prediction_gain_db(x, x.astype(float))[0] == np.inf
    assert prediction_gain_db(np.empty((0, 2), np.int16), np.empty((0, 2))).tolist() == [0.0, 0.0]


def test_bits_per_sample_is_the_mean_over_all_samples_of_all_channels():
    assert bits_per_sample(np.array([[1.0, 2.0], [3.0, 6.0]])) == 3.0
    assert bits_per_sample(np.empty((0, 2))) == 0.0


@settings(max_examples=40)
@given(st.integers(-64, 64), st.floats(0.1, 3.0), st.floats(-500, 500), st.integers(0, 9))
@example(64, 1.0, 0.0, 0)
@example(-64, 1.0, 0.0, 0)
def test_the_lag_is_the_shift_for_any_scale_and_offset(shift, scale, offset, seed):
    x = np.random.default_rng(seed).integers(-9999, 9999, (2000, 1)).astype(np.int16)
    late = scale * np.roll(x, shift, axis=0).astype(float) + offset
    assert lag_samples(x, late).tolist() == [shift]


def test_lags_beyond_64_samples_are_not_searched():
    for shift in [65, -65]:
        x = np.random.default_rng(0).integers(-9999, 9999, (2000, 1)).astype(np.int16)
        assert abs(int(lag_samples(x, np.roll(x, shift, axis=0).astype(float))[0])) <= 64
        assert lag_samples(x, np.roll(x, shift, axis=0).astype(float), 65).tolist() == [shift]


def test_three_samples_are_enough_to_detect_a_lag_of_one():
    """Without their means: -3 in the middle of the song; 3, 3, -6 around it in the forecast."""
    x, y = np.array([[9], [0], [0]], np.int16), np.array([[0.0], [0.0], [-9.0]])
    assert lag_samples(x, y, 1).tolist() == [1]
    assert lag_samples(x[:2], y[:2], 1).tolist() == [0]


def test_the_lag_is_where_numpys_correlation_peaks_for_each_channel():
    x = music(3000, 2)
    # A forecast of two echoes, the louder 5 late in one channel and 9 early in the other
    y = np.stack([2.0 * np.roll(x[:, 0], 5), 2.0 * np.roll(x[:, 1], -9)], axis=1)
    y += np.roll(x, 30, axis=0)
    expected = []
    for c in range(2):
        a, b = x[64:-64, c] - x[:, c].mean(), y[:, c] - y[:, c].mean()
        expected.append(int(np.argmax(np.correlate(b, a, "valid"))) - 64)
    assert lag_samples(x, y).tolist() == expected


def test_very_short_and_constant_songs_have_lag_zero():
    for frames in [0, 1, 2, 3]:
        x = music(frames, 1)
        assert lag_samples(x, x.astype(float)).tolist() == [0]
        flat = np.full((500, 1), 7, np.int16)
        assert lag_samples(flat, np.random.default_rng(0).normal(size=(500, 1))).tolist() == [0]


def test_running_measures_equal_those_of_whole_arrays():
    rng = np.random.default_rng(5)
    cases = ((1, 1, 0), (100, 2, 0), (129, 1, 1), (3000, 2, 7), (4000, 1, -20))
    for frames, channels, shift in cases:
        x = np.cumsum(rng.integers(-90, 91, (frames, channels)), axis=0).astype(np.int16) + 5000
        mean = np.roll(x, shift, axis=0) + rng.normal(0, 3, x.shape)
        bits = rng.uniform(0, 16, x.shape)
        for size in (1, 37, 4096):
            running = RunningMeasures(channels)
            for start in range(0, frames, size):
                part = slice(start, start + size)
                running.add(x[part], mean[part], bits[part])
            np.testing.assert_allclose(
                running.prediction_gain_db, prediction_gain_db(x, mean), rtol=1e-9
            )
            assert running.bits_per_sample == pytest.approx(bits_per_sample(bits), rel=1e-12)
            assert running.lag_samples.tolist() == lag_samples(x, mean).tolist()


def test_clipped_samples_are_predictions_at_the_edge_where_the_song_is_not_loud():
    x = np.array([[100], [32767], [-32768], [-5], [0], [-31000], [31000], [31000]], np.int16)
    mean = np.array([[32767.0], [32767.0], [-32768.0], [-32768.0], [32766.9]])
    mean = np.concatenate([mean, [[-32768.0], [32767.0], [-32768.0]]])
    running = RunningMeasures(1)
    for row in range(len(x)):
        running.add(x[row : row + 1], mean[row : row + 1], np.zeros((1, 1)))
    assert running.clipped_samples == 3


def test_running_measures_of_silence_and_of_nothing():
    running = RunningMeasures(1)
    assert (running.bits_per_sample, running.prediction_gain_db.tolist()) == (0.0, [0.0])
    for value, mean, gain in ((0, 0.0, 0.0), (9, 9.0, np.inf), (-32768, 0.5, None)):
        running = RunningMeasures(1)
        x = np.full((500, 1), value, np.int16)
        forecast = x * 0.0 + mean + np.sin(np.arange(500.0))[:, None] * (gain is None)
        running.add(x, forecast, x * 0.0)
        expected = prediction_gain_db(x, forecast) if gain is None else [gain]
        np.testing.assert_allclose(running.prediction_gain_db, expected)
        assert running.lag_samples.tolist() == [0]

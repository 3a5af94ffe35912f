"""Persistence, ridge and the notebook's LSTMs against independent formulas."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.linear_model import Ridge as SklearnRidge

from helpers.small_models import RATE_HZ, distributions, music, song
from songcast.forecasting.baselines import Persistence
from songcast.forecasting.notebook import (
    DENSE_UNITS,
    LSTM_UNITS,
    TILE,
    Notebook,
    build_network,
    draw_windows,
    fit_notebook,
)
from songcast.forecasting.ridge import LinearPredictor, Ridge


def lag_matrix(passages, look_back):
    """Explicit design: (rows, channels * look_back), channel by channel, newest sample first."""
    rows, targets = [], []
    for passage in passages:
        x = passage / 32768.0
        for t in range(look_back, len(x)):
            past = [x[t - k, c] for c in range(x.shape[1]) for k in range(1, look_back + 1)]
            rows.append(past)
            targets.append(x[t])
    return np.array(rows), np.array(targets)


# Persistence.


def test_persistence_predicts_the_last_sample_of_each_channel():
    x = music(500, 2)
    mean = distributions(Persistence(), x)["mean"]
    expected = np.concatenate([np.zeros((1, 2)), x[:-1]])
    assert_allclose(mean, expected, atol=25.0)


def test_the_gain_of_persistence_is_that_of_the_difference_signal():
    x = music(20000, 1)
    forecast = Persistence().forecast(song(x))
    difference = np.diff(x[:, 0].astype(float), prepend=0.0)
    expected = 10 * np.log10(np.sum(x.astype(float) ** 2) / np.sum(difference**2))
    assert forecast.prediction_gain_db[0] == pytest.approx(expected, abs=0.5)


# Ridge.


def test_ridge_equals_scikit_learns_ridge_on_the_explicit_lag_matrix():
    for alpha in [1e-6, 0.1, 10.0]:
        for channels in [1, 2]:
            passages = [music(400, channels, 1), music(150, channels, 2), music(5, channels, 3)]
            look_back = 6
            model = Ridge.fit(passages, look_back, alpha)
            x, y = lag_matrix(passages, look_back)
            expected = SklearnRidge(alpha=alpha, fit_intercept=False, solver="svd").fit(x, y).coef_
            taps = model.taps[channels]
            assert taps.shape == (channels, channels, look_back)
            assert_allclose(taps.reshape(channels, -1), expected.reshape(channels, -1), rtol=1e-5)


def test_ridge_with_no_penalty_is_least_squares_and_recovers_a_recursion():
    rng = np.random.default_rng(0)
    x = np.zeros((3000, 1))
    for t in range(2, len(x)):
        x[t] = 1.6 * x[t - 1] - 0.8 * x[t - 2] + rng.normal(0, 500)
    passage = np.rint(x).astype(np.int16)
    taps = Ridge.fit([passage], 2, 0.0).taps[1][0, 0]
    a, b = lag_matrix([passage], 2)
    assert_allclose(taps, np.linalg.lstsq(a, b[:, 0], rcond=None)[0], rtol=1e-6)
    assert_allclose(taps, [1.6, -0.8], atol=0.05)


def test_ridge_does_not_depend_on_the_block_size_of_the_normal_equations(monkeypatch):
    passage = music(500, 2)
    whole = Ridge.fit([passage], 4, 1e-3)
    monkeypatch.setattr("songcast.forecasting.ridge.BLOCK_FRAMES", 60)
    assert_allclose(Ridge.fit([passage], 4, 1e-3).taps[2], whole.taps[2], rtol=1e-7)


def test_mono_taps_are_fitted_on_every_single_channel():
    stereo, mono = music(300, 2, 1), music(200, 1, 2)
    model = Ridge.fit([stereo, mono], 5, 1e-3)
    x, y = lag_matrix([stereo[:, :1], stereo[:, 1:], mono], 5)
    expected = SklearnRidge(alpha=1e-3, fit_intercept=False, solver="svd").fit(x, y[:, 0]).coef_
    assert_allclose(model.taps[1][0, 0], expected, rtol=1e-5)


def test_ridge_fitted_on_mono_songs_predicts_the_channels_of_a_stereo_song_separately():
    model = Ridge.fit([music(300, 1)], 5, 1e-3)
    assert_array_equal(model.taps[2][0, 1], np.zeros(5))
    assert_array_equal(model.taps[2][0, 0], model.taps[1][0, 0])
    assert_array_equal(model.taps[2][1, 1], model.taps[1][0, 0])


def test_ridge_fitted_on_silence_predicts_silence():
    model = Ridge.fit([np.zeros((200, 2), np.int16)], 4, 1e-6)
    assert_allclose(LinearPredictor(model.taps[2]).predict(music(50, 2)), 0.0, atol=1e-6)


def test_a_linear_predictor_is_the_sum_of_taps_and_past_samples():
    rng = np.random.default_rng(0)
    taps = rng.normal(0, 0.1, (2, 2, 3))
    x = music(40, 2)
    padded = np.concatenate([np.zeros((3, 2)), x])
    expected = np.zeros((40, 2))
    for t in range(40):
        for target in range(2):
            for source in range(2):
                for k in range(3):
                    expected[t, target] += taps[target, source, k] * padded[t + 2 - k, source]
    assert_allclose(LinearPredictor(taps).predict(x), expected, rtol=1e-9, atol=1e-9)


def test_ridge_beats_persistence_on_a_held_out_passage():
    whole = music(28000, 2, 1)
    model = Ridge.fit([whole[:20000]], 32, 1e-6)
    unseen = song(whole[20000:])
    least = Persistence().forecast(unseen)
    forecast = model.forecast(unseen)
    assert np.all(forecast.prediction_gain_db > least.prediction_gain_db)
    assert forecast.bits_per_sample < least.bits_per_sample


# The notebook.


def test_the_notebook_has_the_original_layers_for_each_channel():
    network = build_network(3, "relu")
    left = {w.path.split("/")[0] for w in network.weights if w.path.startswith("left")}
    right = {w.path.split("/")[0] for w in network.weights if w.path.startswith("right")}
    assert {name.replace("right", "left") for name in right} == left
    sizes = [network.get_layer(f"left_dense_{i}").units for i in range(1, 5)]
    assert (network.get_layer("left_lstm").units, *sizes) == (100, 50, 25, 12, 1)
    assert (LSTM_UNITS, *DENSE_UNITS) == (100, 50, 25, 12, 1)


def test_the_notebook_with_given_weights_equals_the_formula():
    network = build_network(2, "leaky_relu")
    network.set_weights([np.zeros_like(w) for w in network.get_weights()])

    # One LSTM unit has an input weight: gates are sigmoid(0) = 1/2, the candidate is tanh(2 x).
    kernel = np.zeros((1, 4 * LSTM_UNITS), np.float32)
    kernel[0, 2 * LSTM_UNITS] = 2.0
    lstm = network.get_layer("left_lstm")
    lstm.set_weights([kernel, *[np.zeros_like(w) for w in lstm.get_weights()[1:]]])
    for i in range(1, 5):
        dense = network.get_layer(f"left_dense_{i}")
        weights, bias = dense.get_weights()
        weights[0, 0] = 3.0
        dense.set_weights([weights, bias])

    older, newer = 0.3, -0.4
    window = np.array([[[older], [newer]]], np.float32)
    left, right = network.predict_on_batch([window, np.zeros((1, 2, 1), np.float32)])[0]
    # c1 = 1/2 tanh(2 a); c2 = 1/2 c1 + 1/2 tanh(2 b); h = 1/2 tanh(c2); slope 0.3 below zero
    c = 0.25 * np.tanh(2 * older) + 0.5 * np.tanh(2 * newer)
    expected = 0.5 * np.tanh(c)
    assert expected < 0
    for _ in range(4):
        expected = 3.0 * 0.3 * expected
    assert left == pytest.approx(0.3 * expected, rel=1e-5)
    assert right == 0.0


def notebook(network, activation):
    weights = {w.path: np.array(w, np.float32) for w in network.weights}
    return Notebook(weights, 3, activation)


def test_the_notebook_predicts_each_sample_from_the_three_samples_before_it():
    network = build_network(3, "leaky_relu")
    x = music(60, 2)
    forecast = notebook(network, "leaky_relu").session(2).forecast_block(x)
    padded = np.concatenate([np.zeros((3, 2)), x]).astype(np.float32) / 32768.0
    windows = np.stack([padded[t : t + 3] for t in range(60)])
    expected = network.predict_on_batch([windows[..., :1], windows[..., 1:]]) * 32768.0
    # Stacking follows its only expert from the start.
    others = np.abs(forecast.locations[..., 0] - expected)
    assert np.median(others) < 0.2 * np.median(np.abs(x))


def test_the_notebook_equals_its_keras_network_wherever_a_block_begins():
    network = build_network(3, "leaky_relu")
    model = notebook(network, "leaky_relu")
    windows = np.random.default_rng(0).uniform(-1, 1, (2 * TILE + 50, 3)).astype(np.float32)
    expected = network.predict_on_batch([windows[..., None]] * 2)
    for channel in (0, 1):
        whole = model.predict(channel, windows)
        assert_allclose(whole, expected[:, channel], atol=1e-5)
        for first in (1, TILE - 1, TILE, TILE + 7):
            parts = [(0, first), (first, first + 2), (first + 2, len(windows))]
            blocks = [model.predict(channel, windows[a:b], a) for a, b in parts]
            assert_array_equal(np.concatenate(blocks), whole)


def test_a_relu_notebook_never_predicts_below_zero_a_leaky_one_does():
    for seed in range(3):
        windows = np.random.default_rng(seed).uniform(-1, 1, (2000, 3, 1)).astype(np.float32)
        relu = build_network(3, "relu").predict_on_batch([windows, windows])
        leaky = build_network(3, "leaky_relu").predict_on_batch([windows, windows])
        assert relu.min() >= 0.0
        assert leaky.min() < 0.0


def test_windows_lie_within_one_passage_and_are_uniform_over_all_positions():
    lengths, frames = (40, 7, 5, 25), 5
    # Every sample encodes its position: passage * 1000 + frame; channels differ in sign.
    passages = []
    for i, length in enumerate(lengths):
        ramp = (1000 * i + np.arange(length)).astype(np.int16)
        passages.append(np.stack([ramp, -ramp], axis=1))
    windows = draw_windows(passages, frames, 20000, np.random.default_rng(0))
    assert windows.shape == (20000, frames, 2)
    assert windows.dtype == np.float32
    values = np.rint(windows * 32768).astype(int)
    assert_array_equal(values[..., 1], -values[..., 0])
    assert_array_equal(np.diff(values[..., 0], axis=1), 1)
    first = values[:, 0, 0]
    starts, counts = np.unique(first, return_counts=True)
    allowed = [1000 * i + s for i, n in enumerate(lengths) for s in range(n - frames + 1)]
    assert starts.tolist() == allowed
    expected = 20000 / len(allowed)
    chi_square = np.sum((counts - expected) ** 2 / expected)
    # About 60 degrees of freedom: mean 60, deviation 11
    assert chi_square < 60 + 5 * 11


def test_windows_of_a_mono_passage_fill_both_channels():
    windows = draw_windows([music(50, 1)], 4, 10, np.random.default_rng(0))
    assert_array_equal(windows[..., 0], windows[..., 1])


def test_a_passage_shorter_than_a_window_has_no_windows():
    passage = music(50, 1)
    alone = draw_windows([passage], 4, 10, np.random.default_rng(0))
    beside = draw_windows([passage[:3], passage], 4, 10, np.random.default_rng(0))
    assert_array_equal(alone, beside)


def sine(frames: int, channels: int):
    phase = 2 * np.pi * 441 * np.arange(frames)[:, None] / RATE_HZ
    return np.rint(12000 * np.sin(phase + np.arange(channels))).astype(np.int16)


def test_the_notebook_learns_a_sine_reproducibly():
    losses: list[list[float]] = [[], []]
    models = [
        fit_notebook(
            [sine(3000, 2), sine(1000, 1)],
            look_back=3,
            activation="leaky_relu",
            epochs=2,
            windows_per_epoch=3000,
            seed=3,
            on_epoch=lambda epoch, loss, log=log: log.append(loss),
        )
        for log in losses
    ]
    assert losses[0] == losses[1]
    assert losses[0][1] < 0.2 * losses[0][0]
    forecast = models[0].forecast(song(sine(2000, 2)))
    assert np.all(forecast.prediction_gain_db > 10.0)
    assert models[0].look_back == 3


# TensorFlow's variables do not support NumPy 2's copy keyword, which Keras uses to save.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")
def test_a_saved_and_loaded_baseline_forecasts_the_same_bits(tmp_path):
    models = [Ridge.fit([music(500, 2)], 4, 1e-3), notebook(build_network(3, "relu"), "relu")]
    for model in models:
        model.save(tmp_path / model.name, {"sample_rate_hz": 44100})
        again = type(model).load(tmp_path / model.name)
        assert again.look_back == model.look_back
        for channels in (1, 2):
            x = song(music(300, channels))
            assert_array_equal(again.forecast(x).bits, model.forecast(x).bits)

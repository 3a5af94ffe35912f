"""Two laws for every forecaster: causality, and independence of the block size, bit for bit."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from helpers.small_models import NAMES, distributions, forecaster, joined, music, song
from songcast.forecasting.distribution import BLOCK_FRAMES, Distribution, LogisticMixture
from songcast.forecasting.forecaster import Forecaster, ForecastSession

FRAMES = BLOCK_FRAMES + 904
# Edges of the steps of 16 frames and of the blocks, and frames between them.
PLACES = (0, 17, BLOCK_FRAMES - 1, BLOCK_FRAMES, FRAMES - 1)


@pytest.fixture(scope="module", params=NAMES)
def model(request):
    return forecaster(request.param)


def changed_from(x, frame, channel, seed=1):
    """Return a song that differs from ``channel`` of ``frame`` on."""
    rng = np.random.default_rng(seed)
    other = x.copy()
    other[frame, channel:] = rng.integers(-32768, 32768, x.shape[1] - channel)
    other[frame + 1 :] = rng.integers(-32768, 32768, other[frame + 1 :].shape)
    return other


def assert_causal(model: Forecaster, x, places):
    """Change the song from each (frame, channel) on; the earlier predictions must not change."""
    expected = distributions(model, x)
    forecast = model.forecast(song(x))
    for frame in places:
        for channel in range(x.shape[1]):
            predicted = distributions(model, changed_from(x, frame, channel))
            for part, values in expected.items():
                where = f"{part} before a change at frame {frame}, channel {channel}"
                assert_array_equal(predicted[part][:frame], values[:frame], where)
                now = slice(0, channel + 1)
                assert_array_equal(predicted[part][frame, now], values[frame, now], where)
    again = model.forecast(song(changed_from(x, frame, 0)))
    assert_array_equal(again.mean[:frame], forecast.mean[:frame])
    assert_array_equal(again.bits[:frame], forecast.bits[:frame])
    assert_array_equal(again.mean[frame, 0], forecast.mean[frame, 0])


def test_predictions_depend_on_the_past_only(model):
    for channels in (1, 2):
        assert_causal(model, music(FRAMES, channels), PLACES)


def test_each_frame_changes_the_next_prediction(model):
    # A forecaster that ignores the song would be causal, too.
    x = music(FRAMES, 2)
    expected = distributions(model, x)
    for frame in (20, BLOCK_FRAMES - 1, BLOCK_FRAMES + 7):
        other = x.copy()
        other[frame] += 1000
        predicted = distributions(model, other)
        for part in expected:
            assert not np.array_equal(predicted[part][frame + 1], expected[part][frame + 1])


def test_the_check_of_causality_detects_future_samples():
    # The predicted sample itself, the next frame, the other channel.
    for frames_ahead, channels_ahead in ((0, 0), (1, 0), (0, 1)):
        shift = (-frames_ahead, -channels_ahead)

        class Acausal(Forecaster):
            name = "acausal"

            def session(self, channels: int) -> ForecastSession:
                return AcausalSession()

        class AcausalSession(ForecastSession):
            def forecast_block(self, samples, shift=shift):
                seen = np.roll(samples, shift, axis=(0, 1)).astype(np.float64)
                one = np.ones((*samples.shape, 1))
                return LogisticMixture(weights=one, locations=1e-3 * seen[..., None], scales=one)

        with pytest.raises(AssertionError, match="before a change"):
            assert_causal(Acausal(), music(64, 2), (30,))


def test_the_block_size_does_not_change_the_predictions(model):
    edges = [0, 0, 1, 2, 2, BLOCK_FRAMES - 1, BLOCK_FRAMES, BLOCK_FRAMES + 1, FRAMES]
    edges += np.random.default_rng(1).integers(0, FRAMES, 8).tolist()
    for channels in (1, 2):
        for seed, cuts in enumerate((list(range(1000, FRAMES, 1000)), edges)):
            x = music(FRAMES, channels, seed)
            whole, blocks = distributions(model, x), distributions(model, x, cuts)
            for part, values in whole.items():
                assert_array_equal(blocks[part], values, part)


def test_the_forecast_of_a_song_equals_that_of_a_session(model):
    x = music(FRAMES, 2)
    block = model.session(2).forecast_block(x)
    forecast = model.forecast(song(x))
    assert_array_equal(forecast.mean, block.mean)
    assert_array_equal(forecast.bits, block.bits(x))


def test_two_sessions_of_a_model_are_independent(model):
    x, y = music(700, 2, 0), music(700, 1, 1)
    first, second = model.session(2), model.session(1)
    parts: list[Distribution] = []
    for at in range(0, 700, 100):
        parts.append(first.forecast_block(x[at : at + 100]))
        second.forecast_block(y[at : at + 100])
    alone = distributions(model, x)
    for part, values in joined(parts).items():
        assert_array_equal(values, alone[part], part)


def test_the_shortest_songs_have_a_forecast(model):
    for frames in (0, 1, 17):
        for channels in (1, 2):
            forecast = model.forecast(song(music(frames, channels)))
            assert forecast.mean.shape == forecast.bits.shape == (frames, channels)
            assert np.all(np.isfinite(forecast.bits))
            assert np.all(forecast.bits > 0)


def test_forecasts_of_silence_full_scale_and_noise_are_finite(model):
    square = np.tile(np.repeat(np.array([[32767], [-32768]], np.int16), 50, axis=0), (60, 2))
    noise = np.random.default_rng(0).integers(-32768, 32768, (6000, 2)).astype(np.int16)
    lowest = np.full((6000, 2), -32768, np.int16)
    for samples in (np.zeros((6000, 2), np.int16), lowest, square, noise):
        forecast = model.forecast(song(samples))
        assert np.all(np.isfinite(forecast.mean))
        assert np.all(np.abs(forecast.mean) <= 32768 * (1 + 1e-12))
        assert np.all((forecast.bits > 0) & (forecast.bits <= 32.001))

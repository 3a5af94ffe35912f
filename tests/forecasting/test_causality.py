"""The one law, for every forecaster; and how a song is cut does not matter, bit for bit."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from helpers.small_models import NAMES, RATE_HZ, distributions, forecaster, joined, music, song
from songcast.forecasting.distribution import BLOCK_FRAMES, LogisticMixture
from songcast.forecasting.forecaster import Forecaster, ForecastSession

FRAMES = BLOCK_FRAMES + 904
# Borders of the network's frames of 16 and of the blocks, and in between.
PLACES = (0, 17, BLOCK_FRAMES - 1, BLOCK_FRAMES, FRAMES - 1)


@pytest.fixture(scope="module", params=NAMES)
def model(request):
    return forecaster(request.param)


def changed_from(x, frame, channel, seed=1):
    """Another song from ``channel`` of ``frame`` on."""
    rng = np.random.default_rng(seed)
    other = x.copy()
    other[frame, channel:] = rng.integers(-32768, 32768, x.shape[1] - channel)
    other[frame + 1 :] = rng.integers(-32768, 32768, other[frame + 1 :].shape)
    return other


def assert_law_holds(model: Forecaster, x, places):
    """Whatever comes from (frame, channel) on, the distributions up to there are the same."""
    known = distributions(model, x)
    forecast = model.forecast(song(x))
    for frame in places:
        for channel in range(x.shape[1]):
            future = changed_from(x, frame, channel)
            said = distributions(model, future)
            for part, was in known.items():
                where = f"{part} before a change at frame {frame}, channel {channel}"
                assert_array_equal(said[part][:frame], was[:frame], where)
                now = slice(0, channel + 1)
                assert_array_equal(said[part][frame, now], was[frame, now], where)
    again = model.forecast(song(changed_from(x, frame, 0)))
    assert_array_equal(again.mean[:frame], forecast.mean[:frame])
    assert_array_equal(again.bits[:frame], forecast.bits[:frame])
    assert_array_equal(again.mean[frame, 0], forecast.mean[frame, 0])


@pytest.mark.parametrize("channels", [1, 2])
def test_the_future_does_not_change_what_was_said_before(model, channels):
    assert_law_holds(model, music(FRAMES, channels), PLACES)


def test_what_is_heard_changes_what_is_said_next(model):
    # Otherwise the law would hold for a forecaster that hears nothing.
    x = music(FRAMES, 2)
    for frame in (20, BLOCK_FRAMES - 1, BLOCK_FRAMES + 7):
        other = x.copy()
        other[frame] += 1000
        was, said = distributions(model, x), distributions(model, other)
        assert not np.array_equal(said["scales"][frame + 1], was["scales"][frame + 1])
        assert not np.array_equal(said["locations"][frame + 1], was["locations"][frame + 1])


@pytest.mark.parametrize("leak", [(0, 0), (1, 0), (0, 1)])
def test_the_test_of_the_law_catches_who_looks_ahead(leak):
    # (frames ahead, channels ahead): the sample itself, the next frame, the other channel
    ahead, across = leak

    class Peeking(Forecaster):
        name = "peeking"

        def session(self, channels: int, sample_rate_hz: int) -> ForecastSession:
            return PeekingSession()

    class PeekingSession(ForecastSession):
        def forecast_block(self, samples):
            seen = np.roll(samples, (-ahead, -across), axis=(0, 1)).astype(np.float64)
            one = np.ones((*samples.shape, 1))
            return LogisticMixture(weights=one, locations=1e-3 * seen[..., None], scales=one)

    with pytest.raises(AssertionError, match="before a change"):
        assert_law_holds(Peeking(), music(64, 2), (30,))


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("seed", range(2))
def test_cut_in_any_way_a_song_gets_the_same_distributions_bit_for_bit(model, channels, seed):
    x = music(FRAMES, channels, seed)
    rng = np.random.default_rng(seed)
    cuts = [0, 0, 1, 2, 2, BLOCK_FRAMES - 1, BLOCK_FRAMES, BLOCK_FRAMES + 1, FRAMES]
    cuts += rng.integers(0, FRAMES, 8).tolist()
    cuts = cuts if seed else list(range(1000, FRAMES, 1000))
    whole, cut = distributions(model, x), distributions(model, x, cuts)
    for part, was in whole.items():
        assert_array_equal(cut[part], was, part)


def test_the_forecast_of_a_song_is_what_a_session_says(model):
    x = music(FRAMES, 2)
    heard = LogisticMixture(**distributions(model, x))
    forecast = model.forecast(song(x))
    assert_array_equal(forecast.mean, heard.mean)
    assert_array_equal(forecast.bits, heard.bits(x))


def test_two_sessions_of_one_model_do_not_know_of_each_other(model):
    x, y = music(700, 2, 0), music(700, 1, 1)
    first, second = model.session(2, RATE_HZ), model.session(1, RATE_HZ)
    parts: list[LogisticMixture] = []
    for at in range(0, 700, 100):
        parts.append(first.forecast_block(x[at : at + 100]))
        second.forecast_block(y[at : at + 100])
    alone = distributions(model, x)
    for part, said in joined(parts).items():
        assert_array_equal(said, alone[part], part)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("frames", [0, 1, 17])
def test_songs_as_short_as_can_be_are_forecast(model, channels, frames):
    forecast = model.forecast(song(music(frames, channels)))
    assert forecast.mean.shape == forecast.bits.shape == (frames, channels)
    assert np.all(np.isfinite(forecast.bits))
    assert np.all(forecast.bits > 0)


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros((6000, 2), np.int16),
        np.full((6000, 2), -32768, np.int16),
        np.tile(np.repeat(np.array([[32767], [-32768]], np.int16), 50, axis=0), (60, 2)),
        np.random.default_rng(0).integers(-32768, 32768, (6000, 2)).astype(np.int16),
    ],
    ids=["silence", "lowest", "square", "noise"],
)
def test_hostile_songs_stay_finite(model, samples):
    forecast = model.forecast(song(samples))
    assert np.all(np.isfinite(forecast.mean))
    assert np.all(np.abs(forecast.mean) <= 32768 * (1 + 1e-12))
    assert np.all((forecast.bits > 0) & (forecast.bits <= 32.001))

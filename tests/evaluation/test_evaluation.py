"""Evaluation equals each model's own forecast; summaries equal sums by hand."""

import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from helpers.small_models import BANK, forecaster, front_end, music, randomised, ridge, song
from songcast.evaluation.forecasts import forecast_passage, front_end_of, measure_passages
from songcast.evaluation.summary import finite, summarise_forecasts
from songcast.forecasting.baselines import Cascade, Persistence
from songcast.forecasting.distribution import BLOCK_FRAMES, Distribution
from songcast.forecasting.forecaster import Forecast, Forecaster, ForecastSession


def passages(models, x, start, stop, first=0):
    """The whole forecast of a passage by each model."""
    parts = {name: [] for name in models}
    for name, frame, block in forecast_passage(models, x, start, stop, first):
        assert frame == start + sum(len(part.samples) for part in parts[name])
        parts[name].append(block)
    return {name: joined(blocks) for name, blocks in parts.items()}


def joined(blocks):
    names = ("samples", "mean", "bits")
    return Forecast(**{n: np.concatenate([getattr(b, n) for b in blocks]) for n in names})


@pytest.fixture(scope="module")
def forecasts_of_song():
    """A song, models of every kind, and each one's own forecast of the whole song."""
    models = {
        "lstm": randomised("cascade", seed=1),
        "persistence": Persistence(),
        "cascade": Cascade(BANK),
        "other": randomised("cascade", seed=2),
        "ridge": ridge(),
        "alone": randomised("none", seed=3),
        "on ridge": randomised("ridge", seed=4),
    }
    x = song(music(2 * BLOCK_FRAMES + 700, 2))
    return x, models, {name: model.forecast(x) for name, model in models.items()}


def test_every_forecast_of_a_passage_equals_that_part_of_the_models_own_forecast(forecasts_of_song):
    for start, stop in [
        (BLOCK_FRAMES + 300, 2 * BLOCK_FRAMES + 200),
        (BLOCK_FRAMES, BLOCK_FRAMES + 50),
        (17, 40),
        (0, 2 * BLOCK_FRAMES + 200),
    ]:
        x, models, forecasts = forecasts_of_song
        results = passages(models, x, start, stop)
        for name, forecast in forecasts.items():
            own = forecast.passage(start, stop)
            assert_array_equal(results[name].samples, own.samples, name)
            assert_array_equal(results[name].bits, own.bits, name)
            assert_array_equal(results[name].mean, own.mean, name)
        if start < BLOCK_FRAMES:
            # Later, the average ignores both random networks.
            assert not np.array_equal(results["lstm"].bits, results["other"].bits)


def test_a_model_with_a_warm_up_starts_that_many_frames_before_the_passage():
    model = forecaster("notebook")
    model.warm_up_frames = 20000
    x = song(music(24000, 1))
    results = passages({"notebook": model}, x, 22000, 23000)["notebook"]
    own = model.forecast(x).passage(22000, 23000)
    # The stacking forgets exponentially: the remainder is far below the reported digits.
    assert_allclose(results.bits.mean(), own.bits.mean(), atol=1e-3)


def test_passages_of_a_long_song_are_measured_after_a_warm_up_and_together():
    model, x = randomised("cascade", seed=1), song(music(3 * BLOCK_FRAMES, 2))
    spans = [(0, 500, 900), (BLOCK_FRAMES, 2 * BLOCK_FRAMES - 100, 2 * BLOCK_FRAMES + 300)]
    parts = [passages({"a": model}, x, *span[1:], span[0])["a"] for span in spans]
    for (first, start, stop), part in zip(spans, parts, strict=True):
        own = model.forecast(replace(x, samples=x.samples[first:])).passage(
            start - first, stop - first
        )
        assert_array_equal(part.bits, own.bits)
    measures, whole = measure_passages({"a": model}, x, spans)["a"], joined(parts)
    assert measures["bits_per_sample"] == pytest.approx(whole.bits_per_sample)
    assert measures["prediction_gain_db"] == pytest.approx(whole.prediction_gain_db.tolist())


def test_measuring_needs_no_more_memory_for_a_long_passage():
    x = song(np.tile(music(50_000, 2), (12, 1)))

    def peak_bytes(stop):
        tracemalloc.start()
        try:
            measure_passages({"a": Persistence()}, x, [(0, 0, stop)])
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak_bytes(10_000)  # what is loaded once
    # The means and the code lengths alone would be 14 MB larger.
    assert peak_bytes(600_000) < peak_bytes(150_000) + 500_000


def test_models_with_equal_front_ends_share_it():
    assert front_end_of(Cascade(BANK)) == front_end_of(randomised("cascade"))
    assert front_end_of(Cascade()) != front_end_of(Cascade(BANK))
    assert front_end_of(randomised("none")) == front_end("none")
    assert front_end_of(ridge()) is None
    assert front_end_of(Persistence()) is None


def test_the_lag_of_persistence_is_one_and_of_honest_predictors_zero():
    # Much of it is noise-like, so that the last sample is not the next one.
    rng = np.random.default_rng(0)
    x = np.convolve(rng.normal(0, 3000, 9000), [0.5, 1.0, 0.5], "same")
    stereo = np.rint(np.stack([x, np.roll(x, 7)], 1)).astype(np.int16)
    models = {"persistence": Persistence(), "cascade": Cascade(), "lstm": randomised("cascade")}
    results = measure_passages(models, song(stereo), [(0, 4000, 9000)])
    assert results["persistence"]["lag_samples"] == [1, 1]
    assert results["cascade"]["lag_samples"] == [0, 0]
    assert results["lstm"]["lag_samples"] == [0, 0]


class Known(Forecaster, ForecastSession, Distribution):
    """Forecasts one block with a known mean and known bits."""

    mean = np.empty(0)

    def __init__(self, mean, bits):
        self.mean, self._bits = np.array(mean, np.float64), np.array(bits, np.float64)

    def session(self, channels):
        return self

    def forecast_block(self, samples):
        return self

    def bits(self, samples):
        return self._bits

    def masses(self, frame, channel):
        raise NotImplementedError


def measures_of(x, mean, bits=None):
    bits = np.full(np.shape(x), 2.0) if bits is None else bits
    x = song(np.array(x, np.int16))
    return measure_passages({"known": Known(mean, bits)}, x, [(0, 0, x.frames)])["known"]


def test_a_measure_is_plain_json_with_one_number_per_channel():
    results = measures_of([[10, 0], [-10, 0]], [[9, 0], [-9, 0]], [[1.0, 2.0], [3.0, 6.0]])
    assert json.loads(json.dumps(results, allow_nan=False)) == {
        "prediction_gain_db": [pytest.approx(20.0), 0.0],
        "bits_per_sample": 3.0,
        "lag_samples": [0, 0],
        "clipped_samples": 0,
    }


def test_an_infinite_gain_is_null_in_json():
    assert measures_of([[5], [6]], [[5], [6]])["prediction_gain_db"] == [None]
    assert finite(np.inf) is finite(np.nan) is None
    assert finite(1) == 1.0


def entry(gains, bits, lags, clipped=0):
    return {
        "prediction_gain_db": gains,
        "bits_per_sample": bits,
        "lag_samples": lags,
        "clipped_samples": clipped,
    }


def test_the_summary_is_the_mean_over_songs_the_worst_lag_and_all_clipped():
    songs = {
        "a": {"x": entry([10.0, 20.0], 6.0, [0, 1], 3), "y": entry([1.0, 1.0], 1.0, [0, 0])},
        "b": {"x": entry([30.0], 8.0, [-4], 1), "y": entry([None], 2.0, [0])},
    }
    assert summarise_forecasts(songs) == {
        # a song counts once, however many channels it has: (15 + 30) / 2
        "x": entry(22.5, 7.0, -4, 4),
        "y": entry(0.5, 1.5, 0, 0),
    }
    assert summarise_forecasts({}) == {}

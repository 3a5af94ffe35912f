"""The LSTM forecaster equals its front end when untrained; training and forecasting agree."""

import hashlib
import itertools
import os
import time

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from helpers.features import open_features
from helpers.small_models import BANK, RATE_HZ, distributions, music, randomised, song, untrained
from songcast.data.corpus import Budget, PreparedSong
from songcast.errors import CorpusError
from songcast.forecasting import adaptation
from songcast.forecasting.adaptation import BiasStage, ModelAveraging
from songcast.forecasting.baselines import Cascade
from songcast.forecasting.calibration import Calibration
from songcast.forecasting.distribution import (
    BLOCK_FRAMES,
    LogisticMixture,
    MeasuredMixture,
    code_lengths,
)
from songcast.forecasting.features import FeatureExtractor
from songcast.forecasting.filter_bank_settings import FilterBankSettings
from songcast.forecasting.front_end import FrontEndSettings
from songcast.forecasting.lstm import LstmForecaster
from songcast.forecasting.match_model import MatchModel
from songcast.forecasting.network import build_network, network_of, network_weights
from songcast.forecasting.network_engine import NetworkSession, NetworkSettings
from songcast.training import feature_cache
from songcast.training.batches import CropSampler, network_inputs, validation_batches
from songcast.training.feature_cache import budgeted
from songcast.training.feature_streams import LEVELS, dequantised, quantised

# TensorFlow's variables do not support NumPy 2's copy keyword, which Keras uses to save.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword"
)
FRAMES = 3 * BLOCK_FRAMES


def prepared(folder, samples, slug="a", splits=None):
    """A song of prepared/."""
    path = folder / f"{slug}.npy"
    np.save(path, samples)
    return PreparedSong(
        slug=slug,
        source=f"{slug}.wav",
        sha256=hashlib.sha256(samples.tobytes()).hexdigest(),
        source_sample_rate_hz=RATE_HZ,
        sample_rate_hz=RATE_HZ,
        frames=len(samples),
        channels=samples.shape[1],
        peak=int(np.abs(samples.astype(int)).max()),
        splits=splits or {"train": (0, len(samples))},
        path=path,
    )


def settings_of(model) -> FrontEndSettings:
    return model.front_end


def extracted(model, samples):
    """The features of a pass over ``samples``, the mixture and the target of each sample."""
    channels, settings = samples.shape[1], model.settings
    encoded = model.front_end.open(channels).encode(samples)
    block = FeatureExtractor(channels, settings.experts, settings.step_frames).extract(encoded)
    unit, mean = block.unit[..., None], encoded.mean[..., None]
    weights, locations, scales = encoded.weights, encoded.locations, encoded.scales
    columns = [np.log(weights), (locations - mean) / unit, np.log(scales / unit)]
    target = np.concatenate([(samples.T[..., None] - mean) / unit, 1.0 / unit], axis=-1)
    return encoded, block, np.concatenate(columns, axis=-1), target


def streams(song_features):
    """The stored arrays by name."""
    return {path.stem: np.load(path) for path in sorted(song_features.folder.glob("*.npy"))}


def assert_derived(actual, expected, name=""):
    """Half precision."""
    assert_allclose(actual, expected, rtol=0.0006, atol=0.0002, err_msg=name)


def seconds_of(frames, warm_up) -> Budget:
    """A budget of ``frames``, in passages of at least half of them."""
    seconds, warm_up_seconds = frames / RATE_HZ, warm_up / RATE_HZ
    return Budget(seconds=seconds, warm_up_seconds=warm_up_seconds, passage_seconds=seconds / 2)


# The network as a correction.


def test_an_untrained_network_codes_like_the_cascade(monkeypatch):
    monkeypatch.setattr(adaptation, "MAX_SHIFT", 0.0)
    monkeypatch.setattr(MatchModel, "predict", lambda _, e: (np.zeros_like(e), np.ones_like(e)))
    monkeypatch.setattr(Calibration, "calibrate", lambda _, lower, mass: mass)
    for channels in (1, 2):
        x = song(music(BLOCK_FRAMES + 500, channels))
        untouched = untrained("cascade").forecast(x)
        cascade = Cascade(BANK).forecast(x)
        assert_allclose(untouched.bits, cascade.bits, atol=1e-4)
        assert_allclose(untouched.mean, cascade.mean, atol=1e-2)
        assert untouched.bits_per_sample == pytest.approx(cascade.bits_per_sample, abs=1e-6)


def test_a_network_with_other_weights_codes_differently():
    x = song(music(2000, 2))
    changed, cascade = randomised("cascade").forecast(x), Cascade(BANK).forecast(x)
    assert np.mean(np.abs(changed.bits - cascade.bits)) > 1e-3


def test_a_useless_network_costs_little_against_the_cascade():
    # Random weights of this size make the network's own code useless.
    x = song(music(8000, 1))
    lost = randomised("cascade", spread=1.5).forecast(x).bits - Cascade(BANK).forecast(x).bits
    assert lost.sum() < 30.0 + 0.02 * len(lost)


def test_the_cascade_is_used_where_the_wider_bank_is_worse():
    # A sawtooth: the weights of 23 equal experts are harder to estimate than those of 13.
    saw = ((np.arange(12000)[:, None] * 331 + 32768) % 65536 - 32768).astype(np.int16)
    front_end = FrontEndSettings(filter_bank=FilterBankSettings.wide())
    settings = NetworkSettings(experts=len(front_end.expert_names), units=4, head_units=(4,))
    weights = network_weights(build_network(settings))
    wide = LstmForecaster(weights, settings, front_end).forecast(song(saw))
    narrow, wider = (
        Cascade().forecast(song(saw)),
        Cascade(FilterBankSettings.wide()).forecast(song(saw)),
    )
    assert wider.bits_per_sample > narrow.bits_per_sample + 0.02
    assert wide.bits_per_sample < narrow.bits_per_sample + 0.002


def test_a_forecast_does_not_depend_on_the_songs_before():
    stereo, mono = music(FRAMES, 2), music(BLOCK_FRAMES, 1)
    alone = distributions(randomised(), stereo)
    model = randomised()
    distributions(model, mono)
    after = distributions(model, stereo)
    for part, array in alone.items():
        assert_array_equal(after[part], array)


def test_prefetching_changes_no_bit():
    for kind in ["cascade", "none"]:
        x = music(FRAMES + 100)
        model = randomised(kind)
        session = model.session(2)
        blocks = np.split(x, range(BLOCK_FRAMES, len(x), BLOCK_FRAMES))
        bits = [session.forecast_block(block).bits(block) for block in blocks]
        assert_array_equal(model.forecast(song(x)).bits, np.concatenate(bits))


def around(locations, scale, x) -> MeasuredMixture:
    """One logistic for each sample of ``x`` (channels, frames)."""
    locations = np.broadcast_to(locations, x.shape).astype(np.float64)[..., None]
    mixture = LogisticMixture(
        weights=np.ones_like(locations).swapaxes(0, 1),
        locations=locations.swapaxes(0, 1),
        scales=np.full_like(locations, scale).swapaxes(0, 1),
    )
    return MeasuredMixture(
        weights=np.ones_like(locations),
        locations=locations,
        scales=np.full_like(locations, scale),
        mean=locations[..., 0],
        low=np.zeros(x.shape),
        mass=2.0 ** -mixture.bits(x.T.astype(np.int16)).T,
    )


def test_the_bias_stage_learns_the_correlation_of_the_errors():
    # The error of a mixture around 0, which depends on its past and on the other channel.
    rng = np.random.default_rng(0)
    error = rng.normal(0, 100, (20000, 2))
    error[1:, 0] += 0.4 * error[:-1, 0]
    error[:, 1] += 0.4 * error[:, 0]
    x = np.rint(error.T)
    plain = around(0.0, 60.0, x)
    parts = (plain.weights.copy(), plain.locations.copy(), plain.scales.copy())
    moved = BiasStage(2).correct(x, *parts)
    gain = np.log2(moved.mass / plain.mass)[:, 10000:].mean(axis=1)
    # The possible gain is 0.5 log2(1 + 0.16) = 0.107 bits.
    assert np.all(gain > 0.06) and np.all(gain < 0.13)


def test_model_averaging_follows_the_best_model():
    x = music(3000, 2)
    good, poor = around(x.T + 1.0, 2.0, x.T), around(0.0, 2.0, x.T)
    for models in [(good, poor, poor), (poor, good, poor), (poor, poor, good)]:
        averaged = ModelAveraging(2, 3).average(models, x)
        assert_allclose(averaged.shares.sum(-1), 1.0)
        assert_allclose(
            code_lengths(averaged.mass)[:, 100:], -np.log2(good.mass)[:, 100:], atol=1e-3
        )
        # Code lengths of all values come from the joint mixture.
        assert_allclose(code_lengths(averaged.mass.T), averaged.mixture.bits(x), atol=1e-4)


def test_a_saved_and_loaded_model_forecasts_the_same_bits(tmp_path):
    for kind in ("cascade", "ridge", "none"):
        model = randomised(kind)
        model.save(tmp_path / kind, {})
        again = LstmForecaster.load(tmp_path / kind)
        assert again.settings == model.settings
        x = music(BLOCK_FRAMES + 100, 2)
        before, after = distributions(model, x), distributions(again, x)
        for part in before:
            assert_array_equal(after[part], before[part], part)


# Training and forecasting give the network the same inputs.


@pytest.mark.parametrize("kind", ["cascade", "none"])
@pytest.mark.parametrize("channels", [1, 2])
def test_the_compiled_network_equals_the_keras_network_on_the_features_of_training(
    kind, channels, tmp_path
):
    model = randomised(kind)
    settings = model.settings
    x = music(BLOCK_FRAMES + 320, channels)
    features = open_features(
        [prepared(tmp_path, x)], model.front_end, settings.step_frames, tmp_path / "f"
    )[0]
    places = [(features, c, 0) for c in range(channels)]
    inputs, target = network_inputs(places, len(x), settings.look_back)
    encoded, block, base, exact_target = extracted(model, x)
    side, experts = block.side.copy(), settings.experts
    side[..., :experts] = [dequantised(quantised(rows), experts) for rows in side[..., :experts]]
    past = np.pad(block.squashed, ((0, 0), (settings.look_back, 0)))
    other = past[::-1] if channels == 2 else np.zeros_like(past)
    exact = {
        "summary": np.pad(block.summary, ((0, 0), (1, 0), (0, 0)))[:, :-1],
        "residual": np.stack([past, other], axis=-1),
        "side": side,
        "base": base,
    }
    for name, values in exact.items():
        assert_derived(inputs[name], values, name)
    assert_derived(target, exact_target)
    inputs |= {**exact, "side": block.side}
    state = np.zeros((channels, settings.layers, 2, settings.units), np.float32)
    keras_network = network_of(settings, model.weights)
    output, _ = keras_network.predict_on_batch([*inputs.values(), state])
    log_weights, locations, log_scales = np.split(np.asarray(output, np.float64), 3, axis=-1)

    own = [encoded.weights, encoded.locations, encoded.scales]
    own = [np.ascontiguousarray(part).copy() for part in own]
    NetworkSession(settings, model.matrices, channels).correct(block, *own)
    unit = block.unit[..., None]
    scales = np.exp(log_scales)
    assert_allclose(own[0], np.exp(log_weights), atol=1e-5)
    assert_allclose(own[2] / unit, scales, rtol=1e-4)
    difference = (own[1] - encoded.mean[..., None]) / unit - locations
    assert np.max(np.abs(difference) / np.maximum(scales, np.abs(locations))) < 1e-4
    assert base.shape == output.shape


def test_quantised_differences_are_the_nearest_levels():
    def root(rows):
        return np.copysign(np.sqrt(np.abs(rows, dtype=np.float64)), rows)

    for experts in (1, 3, 13):
        rows = np.random.default_rng(experts).normal(0, 2, (500, experts)).clip(-8.0, 8.0)
        rows[0], rows[1] = 8.0, 0.0
        kept = dequantised(quantised(rows.astype(np.float32)), experts)
        assert_array_equal(kept[:2], rows[:2])
        assert np.all(np.isin(kept, LEVELS))
        half = np.max(np.diff(root(LEVELS))) / 2
        assert np.max(np.abs(root(kept) - root(rows))) < half + 1e-3


@pytest.mark.parametrize("channels", [1, 2])
def test_what_is_derived_at_any_place_equals_what_the_extractor_gave(channels, tmp_path):
    model, rng = untrained("cascade"), np.random.default_rng(channels)
    step, look_back = model.settings.step_frames, 40
    for seed, gain in enumerate((1.0, 0.001, 12.0)):  # ordinary, almost silent, clipped
        x = np.clip(music(20_000, channels, seed) * gain, -32768, 32767).astype(np.int16)
        splits = {"train": (9000, 15_000), "validation": (15_100, 20_000)}
        song_on_disk = prepared(tmp_path, x, f"a{seed}", splits)
        for budget in (Budget(seconds=None), seconds_of(6000, 4096)):
            results = open_features(
                [song_on_disk], settings_of(model), step, tmp_path / "f", budget=budget
            )
            # A song that is used whole has one entry.
            spans = itertools.chain(*budgeted(song_on_disk, budget).values())
            for part, (first, *_) in zip(results, spans, strict=False):
                _, block, base, target = extracted(model, x[first:])
                low, high = next(iter(part.splits.values()))
                for start in rng.integers(-(-low // step), (high - 640) // step, 4) * step:
                    for c in range(channels):
                        inputs, derived = network_inputs([(part, c, start)], 640, look_back)
                        at = start + part.first - first
                        place = c, slice(at, at + 640)
                        assert_derived(inputs["base"][0], base[place])
                        assert_derived(derived[0], target[place])
                        squashed = block.squashed[c, max(at - look_back, 0) : at + 640]
                        known = min(start, look_back) + 640
                        assert_derived(inputs["residual"][0, -known:, 0], squashed[-known:])


def test_a_crop_is_the_same_place_of_the_longer_crop_around_it(tmp_path):
    model = untrained("cascade")
    frame, look_back = model.settings.step_frames, model.settings.look_back
    song_on_disk = prepared(tmp_path, music(4000, 2))
    features = open_features([song_on_disk], settings_of(model), frame, tmp_path / "f")[0]
    whole, target = network_inputs([(features, 1, 0)], 4000 // frame * frame, look_back)
    start, frames = 50 * frame, 20 * frame
    crop, crop_target = network_inputs([(features, 1, start)], frames, look_back)
    assert_array_equal(crop["summary"], whole["summary"][:, 50:70])
    assert_array_equal(crop["residual"], whole["residual"][:, start : start + look_back + frames])
    assert_array_equal(crop["side"], whole["side"][:, start : start + frames])
    assert_array_equal(crop["base"], whole["base"][:, start : start + frames])
    assert_array_equal(crop_target, target[:, start : start + frames])


def test_features_end_before_the_held_out_passage_and_do_not_depend_on_it(tmp_path):
    model = untrained("cascade")
    splits = {"train": (0, 3000), "validation": (3100, 3600), "test": (3700, 5000)}
    x = music(5000, 2)
    other = x.copy()
    other[3600:] = 0
    results = []
    for name, samples in (("one", x), ("two", other)):
        folder = tmp_path / name
        folder.mkdir()
        song_on_disk = prepared(folder, samples, splits=splits)
        results += open_features(
            [song_on_disk], settings_of(model), model.settings.step_frames, folder
        )
    assert "test" not in results[0].splits
    one, two = (streams(song) for song in results)
    for name, stream in one.items():
        assert_array_equal(stream, two[name], name)
    assert one["samples"].shape == (2, 3600)


def test_passages_of_a_long_song_have_the_features_of_a_pass_from_their_warm_up(tmp_path):
    model, frame = untrained("cascade"), 16
    x = music(70_000, 2)
    splits = {"train": (0, 50_000), "validation": (50_100, 60_000), "test": (60_100, 70_000)}
    song_on_disk = prepared(tmp_path, x, splits=splits)
    # Two passages of the train split, and one of validation.
    budget = seconds_of(16_000, 12_000)
    results = open_features(
        [song_on_disk], settings_of(model), frame, tmp_path / "f", budget=budget
    )
    assert [song.slug for song in results] == ["a+1", "a+2", "a"]
    assert [list(song.splits) for song in results] == [["train"], ["train"], ["validation"]]
    first_frames = 0
    for part, (first, start, stop) in zip(
        results, itertools.chain(*budgeted(song_on_disk, budget).values()), strict=True
    ):
        assert [(a + part.first, b + part.first) for a, b in part.splits.values()] == [
            (start, stop)
        ]
        _, exact, _, _ = extracted(model, x[first:stop])
        kept = slice(part.first - first, None)
        assert_array_equal(streams(part)["samples"], x[part.first : stop].T)
        differences = quantised(exact.side[:, kept, : model.settings.experts])
        assert_array_equal(streams(part)["differences"], differences)
        first_frames += stop - start
    assert first_frames == pytest.approx(16_000, abs=3)
    whole = seconds_of(48_000, 12_000)
    (same,) = open_features([song_on_disk], settings_of(model), frame, tmp_path / "f", budget=whole)
    (expected,) = open_features([song_on_disk], settings_of(model), frame, tmp_path / "f")
    assert same == expected


def test_features_are_computed_once_and_again_only_for_another_song_or_front_end(tmp_path):
    model = untrained("cascade")
    folder = tmp_path / "f"

    def folders(samples, settings, frame=16):
        open_features([prepared(tmp_path, samples)], settings, frame, folder)
        return {path.name: path.stat().st_mtime_ns for path in folder.glob("a-*")}

    x = music(600, 2)
    first = folders(x, settings_of(model))
    assert folders(x, settings_of(model)) == first
    more = folders(x, FrontEndSettings(kind="none"))
    more = folders(x, settings_of(model), frame=32)
    more = folders(music(600, 2, seed=9), settings_of(model))
    assert len(more) == 4
    assert first.items() <= more.items()


def test_a_part_that_is_read_is_that_part_of_the_stream_and_a_short_file_is_a_clear_error(tmp_path):
    model = untrained("cascade")
    song_on_disk = prepared(tmp_path, music(3000, 2))
    results = open_features(
        [song_on_disk], settings_of(model), model.settings.step_frames, tmp_path / "f"
    )
    for name, stream in streams(results[0]).items():
        for channel in range(2):
            for start, stop in ((0, stream.shape[1]), (1, 2), (1, 1)):
                rows = results[0].read(name, channel, start, stop)
                assert_array_equal(rows, stream[channel, start:stop], strict=True)
    path = results[0].folder / "samples.npy"
    os.truncate(path, path.stat().st_size - 1)
    results[0].read("samples", 1, 0, 2999)
    with pytest.raises(CorpusError, match=r"samples\.npy: is too short; remove .* and run again"):
        results[0].read("samples", 1, 0, 3000)


def test_unfinished_features_are_computed_again(tmp_path):
    model = untrained("none")
    song_on_disk = prepared(tmp_path, music(600, 2))
    results = open_features([song_on_disk], settings_of(model), 16, tmp_path / "f")[0]
    expected = streams(results)["samples"]
    (folder,) = (tmp_path / "f").glob("a-*")
    (folder / "done").unlink()
    np.save(folder / "samples.npy", np.zeros(3))
    again = open_features([song_on_disk], settings_of(model), 16, tmp_path / "f")[0]
    assert_array_equal(streams(again)["samples"], expected)
    assert [path.name for path in (tmp_path / "f").glob("a-*")] == [folder.name]


def test_features_that_another_training_finished_first_are_left_to_its_readers(
    tmp_path, monkeypatch
):
    model, song_on_disk = untrained("none"), prepared(tmp_path, music(600, 2))
    compute, inodes = feature_cache.write_streams, []

    def slowly(*job):
        monkeypatch.setattr(feature_cache, "write_streams", compute)
        (other,) = open_features([song_on_disk], settings_of(model), 16, tmp_path / "f")
        inodes.append(other.folder.stat().st_ino)
        compute(*job)

    monkeypatch.setattr(feature_cache, "write_streams", slowly)
    (results,) = open_features([song_on_disk], settings_of(model), 16, tmp_path / "f")
    assert [results.folder.stat().st_ino] == inodes


def test_a_full_cache_loses_the_features_that_were_not_used_for_longest(tmp_path):
    model, folder = untrained("none"), tmp_path / "f"
    songs = {slug: prepared(tmp_path, music(600, 2, seed), slug) for seed, slug in enumerate("abc")}

    def use(*slugs, max_bytes=None):
        with feature_cache.in_use(folder, max_bytes):
            open_features([songs[slug] for slug in slugs], settings_of(model), 16, folder)
        return "".join(sorted(path.name[0] for path in folder.glob("*-*")))

    assert use("a", "b") == "ab"
    size = sum(path.stat().st_size for path in folder.glob("a-*/*"))
    time.sleep(0.05)  # the times of files have the resolution of the kernel's clock
    use("a")
    assert use("c", max_bytes=3 * size) == "abc"
    # The features in use stay, whatever the limit; b was used before a.
    assert use("c", max_bytes=2 * size) == "ac"
    assert use("a", "b", "c", max_bytes=0) == "abc"
    with feature_cache.in_use(folder):  # another process
        assert use("a", max_bytes=0) == "abc"
    assert use("a", max_bytes=0) == "a"


# Crops.


@pytest.fixture(scope="module")
def two_songs(tmp_path_factory):
    """A stereo song and a mono song of half its training passage."""
    folder = tmp_path_factory.mktemp("songs")
    songs = [
        prepared(
            folder, music(4000, 2), "stereo", {"train": (0, 3210), "validation": (3300, 4000)}
        ),
        prepared(folder, music(2000, 1), "mono", {"train": (7, 1600), "test": (1700, 2000)}),
    ]
    return open_features(songs, untrained("none").front_end, 16, folder / "f")


def drawn(sampler, monkeypatch, batches=150):
    """Which (slug, channel, start) a sampler draws."""
    results = []

    def record(places, frames, look_back):
        results.extend((song.slug, channel, start) for song, channel, start in places)
        return {"x": np.zeros(1, np.float32)}, np.zeros((1, 2), np.float32)

    with monkeypatch.context() as patch:
        patch.setattr("songcast.training.batches.network_inputs", record)
        for index in range(batches):
            sampler.batch(0, index)
    return results


def sampler_of(songs, **more):
    return CropSampler(
        songs, **{"batch_size": 40, "frames": 160, "look_back": 8, "seed": 3, **more}
    )


def test_a_batch_is_decided_by_its_seed_epoch_and_number_alone(two_songs):
    inputs, target = sampler_of(two_songs).batch(2, 5)
    other = sampler_of(two_songs)
    other.batch(0, 0)
    again, again_target = other.batch(2, 5)
    assert_array_equal(target, again_target)
    for name in inputs:
        assert_array_equal(inputs[name], again[name])
    for changed in (sampler_of(two_songs).batch(2, 6), sampler_of(two_songs).batch(3, 5)):
        assert not np.array_equal(changed[1], target)
    assert not np.array_equal(sampler_of(two_songs, seed=4).batch(2, 5)[1], target)


def test_crops_stay_in_their_passage_and_cover_all_of_it_evenly(two_songs, monkeypatch):
    results = drawn(sampler_of(two_songs), monkeypatch)
    for slug, first, stop, channels in (("stereo", 0, 3210, 2), ("mono", 16, 1600, 1)):
        starts = np.array([start for name, _, start in results if name == slug])
        assert starts.min() == first
        assert starts.max() == (stop - 160) // 16 * 16
        assert np.all(starts % 16 == 0)
        counts = np.bincount((starts - first) // 16)
        expected = counts.mean()
        chi_square = np.sum((counts - expected) ** 2 / expected)
        freedom = len(counts) - 1
        assert chi_square < freedom + 5 * np.sqrt(2 * freedom)
        assert {c for name, c, _ in results if name == slug} == set(range(channels))


def test_songs_are_drawn_by_their_positions_channels_and_shares(two_songs, monkeypatch):
    places = np.array([(3210 - 160) // 16 + 1, (1600 - 160 - 16) // 16 + 1])
    for shares in (None, [1.0, 1.0], [1.0, 4.0], [0.0, 1.0]):
        crops = drawn(sampler_of(two_songs, shares=shares), monkeypatch)
        weights = places * [2, 1] * (shares or [1.0, 1.0])
        share = sum(slug == "stereo" for slug, _, _ in crops) / len(crops)
        assert share == pytest.approx(weights[0] / weights.sum(), abs=0.03)


def test_every_batch_is_spread_over_the_songs_by_their_shares(two_songs, monkeypatch):
    weights = np.array([191 * 2, 89])
    for size in (2, 8, 40):
        crops = drawn(sampler_of(two_songs, batch_size=size), monkeypatch)
        slugs = np.array([slug for slug, _, _ in crops]).reshape(-1, size)
        counts = np.sum(slugs == "stereo", axis=1)
        # A song has all crops of the parts inside its own, and some of those of two at its ends.
        assert np.abs(counts - size * weights[0] / weights.sum()).max() < 2


def test_songs_without_room_are_skipped_and_none_with_room_is_a_clear_error(two_songs, monkeypatch):
    results = drawn(sampler_of(two_songs, frames=1616), monkeypatch, batches=5)
    assert {slug for slug, _, _ in results} == {"stereo"}
    with pytest.raises(CorpusError, match="3216 frames in its train passage"):
        sampler_of(two_songs, frames=3216)


def test_the_blocks_of_a_passage_follow_each_other_without_a_gap(two_songs):
    batches = list(validation_batches(two_songs[0], 160, 8))
    # From the first whole frame in [3300, 4000)
    starts = list(range(3312, 4000 - 160 + 1, 160))
    assert len(batches) == len(starts)
    for (inputs, target), start in zip(batches, starts, strict=True):
        for c in range(2):
            expected, expected_target = network_inputs([(two_songs[0], c, start)], 160, 8)
            assert_array_equal(target[c], expected_target[0])
            for name, (rows,) in expected.items():
                assert_array_equal(inputs[name][c], rows)
    assert list(validation_batches(two_songs[1], 160, 8)) == []


def test_of_a_passage_no_more_is_read_than_is_asked_for(two_songs, monkeypatch):
    starts = []

    def record(places, *rest):
        starts.extend(start for _, _, start in places)
        return network_inputs(places, *rest)

    monkeypatch.setattr("songcast.training.batches.network_inputs", record)
    next(iter(validation_batches(two_songs[0], 160, 8)))
    assert starts == [3312, 3312]  # both channels

"""Continuing is practised on what may be prompt alone, and learned."""

import numpy as np
import pytest

from helpers.small_continuation import SETTINGS, continuation_model
from helpers.small_models import music
from songcast.continuation.conditioning import Prompt
from songcast.continuation.features import FAST, SLOW
from songcast.continuation.network import build_network
from songcast.data.corpus import PreparedSong, first_holdout_frame, split_frames, usable_frames
from songcast.errors import CorpusError
from songcast.evaluation.continuations import by_horizon
from songcast.evaluation.songs import continue_song, listening_frames
from songcast.evaluation.summary import summarise_continuations
from songcast.report.figures.continuation import distance_over_horizon
from songcast.training.checkpoint import Checkpoint
from songcast.training.continuation import (
    PICKED,
    Length,
    Sampler,
    continuation_objective,
    make_examples,
)
from songcast.training.fit import FitSettings, fit

RATE_HZ = 8000
FRACTIONS = {"train": 0.7, "validation": 0.1, "test": 0.2}
CROP_STEPS = 2


def prepared(folder, seconds=8.0, held_out=False, seed=0, fractions=FRACTIONS):
    frames = round(seconds * RATE_HZ)
    path = folder / f"song{seed}.npy"
    np.save(path, music(frames, 2, seed))
    splits = split_frames(frames, RATE_HZ, fractions, 0.0)
    return PreparedSong(
        slug=f"song{seed}",
        source=f"song{seed}.wav",
        sha256="0",
        source_sample_rate_hz=RATE_HZ,
        sample_rate_hz=RATE_HZ,
        frames=frames,
        channels=2,
        peak=1,
        splits={"test": (0, frames)} if held_out else splits,
        path=path,
    )


def test_holdout_is_the_end_or_half_of_a_short_song(tmp_path):
    long, short = prepared(tmp_path, 40.0), prepared(tmp_path, 8.0)
    assert first_holdout_frame(long, 10.0) == 30 * RATE_HZ
    assert usable_frames(long, 10.0) == 28 * RATE_HZ  # its train passage
    assert first_holdout_frame(short, 10.0) == usable_frames(short, 10.0) == 4 * RATE_HZ
    assert first_holdout_frame(short, 0.5) == short.splits["test"][0]


def test_a_held_out_song_is_not_used_for_training(tmp_path):
    assert usable_frames(prepared(tmp_path, held_out=True), 1.0) == 0


def test_a_held_out_song_is_continued_from_its_later_part(tmp_path):
    assert first_holdout_frame(prepared(tmp_path, 8.0, held_out=True), 10.0) == 4 * RATE_HZ
    assert first_holdout_frame(prepared(tmp_path, 40.0, held_out=True), 10.0) == 30 * RATE_HZ


@pytest.mark.parametrize("seconds", [8.0, 0.08, 2 / RATE_HZ, 1 / RATE_HZ])
def test_held_out_songs_of_any_length_are_measured(tmp_path, seconds):
    song, model = prepared(tmp_path, seconds, held_out=True), continuation_model()
    result = continue_song(model, song, 1.0, 0.5)
    (track,) = result.tracks.values()
    start, stop = listening_frames(song, 0.5)
    prompt = Prompt(song.samples[:start], RATE_HZ)
    np.testing.assert_array_equal(track, model.generate(prompt, stop - start, 1.0, 0))
    known = [value is not None for value in result.measures["loop"]["log_mel_distance_db"]]
    assert known == [seconds >= 2.0, seconds >= 2.0, False, False]
    others = continue_song(model, prepared(tmp_path, 8.0, seed=1), 1.0, 0.5)
    summary = summarise_continuations({"a": result.measures, "b": others.measures})
    assert all(value is not None for value in summary["loop"]["log_mel_distance_db"][:2])


def test_examples_do_not_depend_on_held_out_frames(tmp_path):
    song = prepared(tmp_path)
    frames = usable_frames(song, 2.0)
    before = make_examples([(song, frames)], 3, CROP_STEPS * SLOW, 1)
    changed = np.load(song.path)
    changed[frames:] = 7
    np.save(song.path, changed)
    after = make_examples([(song, frames)], 3, CROP_STEPS * SLOW, 2)
    assert len(before[0]) == 3
    assert len(before[1]) == 1
    for ours, others in zip(before, after, strict=True):
        for a, b in zip(ours, others, strict=True):
            np.testing.assert_array_equal(a.own, b.own)
            np.testing.assert_array_equal(a.passage, b.passage)


def test_validation_frames_are_not_used_for_training():
    length = Length.of(RATE_HZ, CROP_STEPS * SLOW)
    frames = 6 * RATE_HZ
    cuts = length.cuts(frames - length.after, 5)
    assert cuts == sorted(set(cuts))
    assert len(cuts) == 5
    assert max(cuts) + length.after <= frames - length.after
    assert min(cuts) > length.before


def test_conditioning_depends_only_on_frames_before_the_cut(tmp_path):
    song = prepared(tmp_path)
    frames = usable_frames(song, 2.0)
    (view, *_), _ = make_examples([(song, frames)], 1, CROP_STEPS * SLOW, 1)
    length = Length.of(RATE_HZ, CROP_STEPS * SLOW)
    (cut,) = length.cuts(frames - length.after, 1)
    changed = np.load(song.path)
    changed[cut:] = np.random.default_rng(0).integers(-9999, 9999, changed[cut:].shape)
    np.save(song.path, changed)
    (other, *_), _ = make_examples([(song, frames)], 1, CROP_STEPS * SLOW, 1)
    np.testing.assert_array_equal(view.passage, other.passage)
    assert np.any(view.own[:, length.before :] != other.own[:, length.before :])


def test_too_short_songs_are_an_error(tmp_path):
    song = prepared(tmp_path, 0.5)
    with pytest.raises(CorpusError, match="no song is long enough to train its continuation"):
        make_examples([(song, 2000)], 4, CROP_STEPS * SLOW, 1)


@pytest.mark.usefixtures("few_open_files")
def test_many_songs_do_not_exhaust_open_files(tmp_path, monkeypatch):
    song = prepared(tmp_path)
    monkeypatch.setattr(
        "songcast.training.continuation.make_example", lambda samples, *_: len(samples)
    )
    songs = [(song, usable_frames(song, 1.0))] * 300  # beyond the limit
    learned, _ = make_examples(songs, 300, CROP_STEPS * SLOW, 2)
    assert learned == [usable_frames(song, 1.0)] * 300


@pytest.fixture(scope="module")
def samplers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("songs")
    songs = [prepared(folder, seed=seed) for seed in range(2)]
    views = make_examples([(s, usable_frames(s, 1.0)) for s in songs], 8, CROP_STEPS * SLOW, 2)
    return tuple(
        Sampler(result, rows=4, steps=CROP_STEPS, look_back=SETTINGS.look_back, seed=1)
        for result in views
    )


def test_batches_fit_the_network_and_are_deterministic(samplers):
    learn, _ = samplers
    inputs, target = learn.batch(0, 0)
    picked = min(PICKED, CROP_STEPS * SLOW // FAST)
    assert target.shape == (4, picked * FAST, 1)
    assert build_network(SETTINGS).predict_on_batch(inputs).shape[:2] == target.shape[:2]
    again, _ = learn.batch(0, 0)
    for a, b in zip(inputs, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.any(learn.batch(0, 1)[1] != target)


def test_noise_changes_inputs_and_not_targets(samplers):
    learn, _ = samplers
    noisy, target = learn.batch(0, 0)
    clean, same = learn.batch(0, 0, noisy=False)
    assert target.shape == same.shape
    assert np.any(noisy[0] != clean[0])


def test_fit_reduces_the_validation_loss(samplers, tmp_path):
    import keras

    keras.utils.set_random_seed(0)
    rows = fit(
        build_network(SETTINGS),
        continuation_objective(*samplers),
        FitSettings(epochs=3, steps_per_epoch=8, learning_rate=1e-2),
        Checkpoint(tmp_path, "f"),
        lambda epoch, row: None,
    )
    assert [row["step"] for row in rows] == [0.0, 1.0, 2.0]
    assert rows[-1]["validation_bits_per_sample"] < rows[0]["validation_bits_per_sample"]


# Measures by horizon.


def test_measures_are_none_for_horizons_beyond_the_song():
    x = music(RATE_HZ * 2, 2)
    result = by_horizon(x, x, RATE_HZ)
    assert result["log_mel_distance_db"] == [0.0, 0.0, 0.0, None]
    assert result["onset_correlation"][0] is None
    assert result["onset_correlation"][1] == pytest.approx(1.0)
    assert result["level_difference_db"][:3] == [0.0, 0.0, 0.0]


def test_summary_averages_known_values_and_absolute_differences():
    songs = {
        "a": {"loop": {"log_mel_distance_db": [2.0, None], "level_difference_db": [-3.0, None]}},
        "b": {"loop": {"log_mel_distance_db": [4.0, 5.0], "level_difference_db": [1.0, None]}},
    }
    assert summarise_continuations(songs) == {
        "loop": {"log_mel_distance_db": [3.0, 5.0], "level_difference_db": [2.0, None]}
    }


def test_figure_title_names_the_horizons_where_the_model_is_nearest():
    def entry(*values):
        return {"log_mel_distance_db": list(values)}

    result = {"continuation": entry(3.0, 9.0, None), "paste": entry(4.0, 5.0, None)}
    drawn = distance_over_horizon(
        {
            "horizons_seconds": [[0, 0.1], [0.1, 1], [1, 5]],
            "summary": result,
            "songs": {"a": result},
        }
    )
    assert drawn.get_suptitle() == (
        "Continuations: songcast has the smallest distance at 0 to 0.1 s"
    )
    (ax,) = drawn.axes
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0 to 0.1 s", "0.1 to 1 s"]

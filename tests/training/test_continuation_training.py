"""Continuing is practised on what may be prompt alone, and learned."""

import dataclasses

import numpy as np
import pytest

from helpers.small_continuation import PASSAGES, UNITS, continuation_model, level_arrays
from helpers.small_models import music
from songcast.config import ContinuationParams, EvaluateParams
from songcast.continuation.level_model import FEATURES, LevelNetwork
from songcast.continuation.prompt import Prompt
from songcast.data.corpus import PreparedSong, first_holdout_frame, split_frames, usable_frames
from songcast.evaluation.continuations import by_horizon
from songcast.evaluation.songs import continue_song, listening_frames
from songcast.evaluation.summary import summarise_continuations
from songcast.report.figures.summary import distance_over_horizon
from songcast.training.continuation import (
    build_network,
    fit_levels,
    make_cuts,
    network_arrays,
)

RATE_HZ = 8000
LISTENING = EvaluateParams(seconds_per_song=None, warm_up_seconds=0.0, listening_seconds=0.5)
FIT = ContinuationParams(
    holdout_seconds=1.0,
    cuts=1,
    epochs=2,
    steps_per_epoch=3,
    batch_size=2,
    learning_rate=1e-3,
    seed=0,
)
FRACTIONS = {"train": 0.7, "validation": 0.1, "test": 0.2}


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
    result = continue_song(model, song, 1.0, LISTENING)
    track = result.tracks["continuation.wav"]
    start, stop = listening_frames(song, LISTENING)
    prompt = Prompt(song.samples[:start], RATE_HZ)
    np.testing.assert_array_equal(track, model.generate(prompt, stop - start, 1.0, 0))
    known = [value is not None for value in result.measures["loop"]["log_mel_distance_db"]]
    assert known == [seconds >= 2.0, seconds >= 2.0, False, False]
    others = continue_song(model, prepared(tmp_path, 8.0, seed=1), 1.0, LISTENING)
    summary = summarise_continuations({"a": result.measures, "b": others.measures})
    assert all(value is not None for value in summary["loop"]["log_mel_distance_db"][:2])


def cuts_of(*songs, count=24):
    return make_cuts([(s, usable_frames(s, 1.0)) for s in songs], count, PASSAGES, seed=0)


def test_cuts_do_not_depend_on_held_out_frames(tmp_path):
    song = prepared(tmp_path)
    before = cuts_of(song)
    changed = np.load(song.path)
    changed[usable_frames(song, 1.0) :] = 7
    np.save(song.path, changed)
    after = cuts_of(song)
    assert len(before) > 12
    for ours, others in zip(before, after, strict=True):
        np.testing.assert_array_equal(ours.table, others.table)
        assert ours.places == others.places


def test_only_the_beginning_of_a_long_song_is_cut(tmp_path, monkeypatch):
    monkeypatch.setattr("songcast.training.continuation.LONGEST_SECONDS", 4)
    song = prepared(tmp_path)
    cuts = cuts_of(song)
    expected = make_cuts([(song, 4 * RATE_HZ)], 24, 3, seed=0)
    assert len(cuts) == len(expected) > 12
    for ours, others in zip(cuts, expected, strict=True):
        np.testing.assert_array_equal(ours.table, others.table)


def test_passages_exclude_what_is_predicted(tmp_path):
    for cut in cuts_of(prepared(tmp_path)):
        for hop, _ in cut.places:
            assert hop < cut.hop or hop > cut.stop
        features, sources, true, _ = cut.arrays(None)
        changed = cut.table.copy()
        changed[cut.hop : cut.stop] += 9.0
        if all(hop < cut.hop for hop, _ in cut.places):
            other = dataclasses.replace(cut, table=changed)
            again, same, moved, _ = other.arrays(None)
            np.testing.assert_array_equal(features, again)
            np.testing.assert_array_equal(sources, same)
            np.testing.assert_allclose(moved, true + 9.0, atol=1e-4)


def test_without_long_songs_the_network_stays_as_it_was(tmp_path):
    cuts = cuts_of(prepared(tmp_path, 2.0))
    assert cuts == []
    arrays, rows = fit_levels(cuts, level_arrays(), FIT, lambda *_: None, lambda _: None)
    assert rows == []
    for name, array in level_arrays().items():
        np.testing.assert_array_equal(arrays[name], array)


def test_the_numpy_network_equals_the_keras_network():
    network = build_network(UNITS)
    rng = np.random.default_rng(0)
    network.set_weights([rng.normal(0, 0.5, w.shape) for w in network.get_weights()])
    arrays = network_arrays(network)
    ours = LevelNetwork(arrays)
    features = rng.normal(0, 1, (20, 7, FEATURES)).astype(np.float32)
    expected = np.asarray(network(features.swapaxes(0, 1))).swapaxes(0, 1)
    state = ours.new_state(7)
    parts = [ours.run(features[:12], state), ours.run(features[12:], state)]
    np.testing.assert_allclose(np.concatenate(parts), expected, atol=1e-4)


def fitted(cuts, learning_rate):
    start = level_arrays()
    start |= {name: 0 * start[name] for name in ("out_kernel", "out_bias")}
    params = FIT.model_copy(update={"learning_rate": learning_rate})
    return fit_levels(cuts, start, params, lambda *_: None, lambda _: None)


def test_training_begins_at_the_blend_and_is_deterministic(tmp_path):
    cuts = cuts_of(prepared(tmp_path, 12.0))
    _, rows = fitted(cuts, 1e-9)
    assert [row["step"] for row in rows] == [0.0, 1.0]
    for row in rows:
        assert row["train_level_error_db"] == pytest.approx(row["blend_level_error_db"], rel=1e-4)
    arrays, rows = fitted(cuts, 1e-2)
    assert rows[1]["train_level_error_db"] != rows[1]["blend_level_error_db"]
    assert set(arrays) == set(level_arrays())
    again, _ = fitted(cuts, 1e-2)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, again[name])


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

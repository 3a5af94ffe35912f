"""Versions are compared song by song, with an honest interval."""

import math

import numpy as np
import pytest

from helpers.records import assert_sealed
from songcast.registry.comparison import compare


def entry(bits):
    songs = {f"song {i}": {"bits_per_sample": float(b)} for i, b in enumerate(bits)}
    return {"summary": {}, "songs": songs}


def test_differences_are_taken_song_by_song():
    found = compare(entry([5.0, 9.0, 7.0]), entry([5.5, 9.1, 7.3]))
    assert found.songs == pytest.approx({"song 0": -0.5, "song 1": -0.1, "song 2": -0.3})
    assert found.mean == pytest.approx(-0.3)
    assert (found.first, found.second) == pytest.approx((7.0, 7.3))
    assert found.low < found.mean < found.high < 0
    assert compare(entry([5.0, 9.0, 7.0]), entry([5.5, 9.1, 7.3])) == found
    assert_sealed(found)


def test_the_interval_is_that_of_a_normal_mean_where_songs_are_many():
    """Oracle: mean plus or minus 1.96 standard errors."""
    rng = np.random.default_rng(1)
    hard = rng.normal(7.0, 2.0, 400)
    found = compare(entry(hard + rng.normal(-0.01, 0.05, 400)), entry(hard))
    differences = np.array(list(found.songs.values()))
    error = differences.std(ddof=1) / math.sqrt(len(differences))
    assert found.low == pytest.approx(found.mean - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(found.mean + 1.96 * error, abs=0.1 * error)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    """95 % by name; the percentile bootstrap of 20 songs is known to fall a little short."""
    rng, held = np.random.default_rng(2), 0
    for _ in range(40):
        found = compare(entry(rng.normal(0.02, 0.05, 20)), entry(np.zeros(20)))
        held += found.low <= 0.02 <= found.high
    assert held >= 33


@pytest.mark.parametrize(
    ("first", "second"),
    [({}, entry([5.0])), (entry([5.0]), {}), (entry([math.nan]), entry([5.0]))],
)
def test_without_a_common_number_there_is_no_comparison(first, second):
    found = compare(first, second)
    assert math.isnan(found.mean) and math.isnan(found.low) and found.songs == {}


def test_only_common_songs_count():
    a = {"songs": {"x": {"bits_per_sample": 5.0}, "y": {"bits_per_sample": 1.0}}}
    b = {"songs": {"x": {"bits_per_sample": 6.0}, "z": {"bits_per_sample": 9.0}}}
    found = compare(a, b)
    assert (found.songs, found.low, found.high) == ({"x": -1.0}, -1.0, -1.0)

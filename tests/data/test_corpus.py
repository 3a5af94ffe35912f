"""Splits, crops and the prepared songs on disk."""

import itertools
import json
import pickle
import shutil
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.records import assert_sealed
from songcast.data.corpus import (
    Budget,
    Corpus,
    Passages,
    PreparedSong,
    drop_pages,
    has_array,
    open_array,
    split_frames,
    write_index,
)
from songcast.data.slugs import slugs
from songcast.errors import CorpusError
from songcast.files import atomic_path, sha256_of_file, write_json

SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}


def prepared(slug="a", splits=None, frames=1000, folder=Path(), **facts):
    return PreparedSong(
        **{
            "slug": slug,
            "source": f"{slug}.wav",
            "sha256": "0" * 64,
            "source_sample_rate_hz": 48000,
            "sample_rate_hz": 44100,
            "frames": frames,
            "channels": 2,
            "peak": 5,
            "splits": splits or {"test": (0, frames)},
            "path": folder / f"{slug}.npy",
            **facts,
        }
    )


# Splits.


@given(
    frames=st.integers(1, 10**7),
    rate=st.sampled_from([8000, 44100, 96000]),
    guard=st.floats(0, 2),
    train=st.integers(1, 98),
    validation=st.integers(0, 98),
)
def test_splits_are_in_order_with_gaps_and_cover_the_song(frames, rate, guard, train, validation):
    validation = min(validation, 99 - train)
    shares = {
        "train": train / 100,
        "validation": validation / 100,
        "test": (100 - train - validation) / 100,
    }
    splits = split_frames(frames, rate, shares, guard)
    if splits == {"test": (0, frames)}:  # too short
        assert frames <= 200 + 2 * round(guard * rate)
        return
    names = [name for name in ("train", "validation", "test") if shares[name]]
    assert list(splits) == names
    gap = round(guard * rate)
    usable = frames - gap * (len(names) - 1)
    end = -gap
    for name in names:
        start, stop = splits[name]
        assert start == end + gap
        assert stop > start
        assert abs((stop - start) - shares[name] * usable) <= 2
        end = stop
    assert end == frames


def test_a_song_too_short_to_split_is_all_test():
    for frames in (1, 2, 8820, 8822):
        assert split_frames(frames, 44100, SHARES, 0.1) == {"test": (0, frames)}


def test_shares_that_divide_the_song_are_exact():
    for tens, gap_seconds in itertools.product((1, 2, 100, 12_345_678), (0.0, 0.5)):
        gap = round(10 * gap_seconds)
        train, validation, test = 7 * tens, tens, 2 * tens
        assert split_frames(10 * tens + 2 * gap, 10, SHARES, gap_seconds) == {
            "train": (0, train),
            "validation": (train + gap, train + gap + validation),
            "test": (train + validation + 2 * gap, train + validation + 2 * gap + test),
        }


def test_a_split_without_a_share_is_absent():
    shares = {"train": 0.7, "test": 0.3}
    assert split_frames(1000, 10, shares, 0.0) == {"train": (0, 700), "test": (700, 1000)}


# On disk.


@pytest.fixture
def folder(tmp_path):
    """Two songs, b and a, as prepare leaves them."""
    rng = np.random.default_rng(0)
    songs = [
        prepared("b", split_frames(1000, 44100, SHARES, 0.001), folder=tmp_path),
        prepared("a", frames=20, channels=1, folder=tmp_path),
    ]
    for song in songs:
        samples = rng.integers(-99, 99, (song.frames, song.channels)).astype(np.int16)
        np.save(song.path, samples)
    write_index(tmp_path, 44100, songs)
    return tmp_path


def test_a_corpus_is_read_in_order_as_memory_maps(folder):
    corpus = Corpus.open(folder)
    assert corpus.sample_rate_hz == 44100
    assert [song.slug for song in corpus] == ["a", "b"]
    song = corpus["b"]
    array = np.load(folder / "b.npy")
    assert isinstance(song.samples, np.memmap)
    assert not song.samples.flags.writeable
    np.testing.assert_array_equal(song.song().samples, array)
    assert (song.song().name, song.song().sample_rate_hz) == ("b", 44100)
    for split, (start, stop) in song.splits.items():
        passage = song.passage(split)
        np.testing.assert_array_equal(passage.samples, array[start:stop])
        assert isinstance(passage.samples, np.memmap)
    assert len(corpus) == 2
    assert [p.frames for p in (song.passage(s) for s in song.splits)] == [638, 91, 183]


def test_passages_are_those_of_the_songs_that_have_the_split(folder):
    corpus = Corpus.open(folder)
    passages = Passages(corpus, "train")
    assert len(passages) == 1
    (found,) = passages
    np.testing.assert_array_equal(found, corpus["b"].passage("train").samples)
    assert [len(p) for p in Passages(corpus, "test")] == [corpus["a"].frames, 183]


def test_a_missing_song_or_passage_is_named(folder):
    corpus = Corpus.open(folder)
    with pytest.raises(CorpusError, match="a: no passage 'train'; it has: test"):
        corpus["a"].passage("train")
    with pytest.raises(CorpusError, match="no prepared song 'c'; there are: a, b"):
        corpus["c"]


def test_a_damaged_corpus_is_an_error_with_the_command_to_run(folder, tmp_path_factory):
    for damage, message in (
        (lambda f: (f / "songs.json").unlink(), r"songs\.json: there is no such file"),
        (lambda f: (f / "songs.json").write_text("{"), r"songs\.json: cannot be understood"),
        (lambda f: (f / "songs.json").write_text("[]"), r"songs\.json: cannot be understood"),
        (lambda f: write_json(f / "songs.json", {"format": 0}), "made by another version"),
        (lambda f: (f / "a.npy").unlink(), r"a\.npy: missing or of another size"),
        (lambda f: (f / "a.npy").write_bytes(b""), r"a\.npy: missing or of another size"),
        (
            lambda f: (f / "b.npy").write_bytes((f / "b.npy").read_bytes()[:-1]),
            r"b\.npy: missing or of another size",
        ),
        (lambda f: np.save(f / "a.npy", np.zeros((20, 2), "i2")), "missing or of another size"),
    ):
        copy = tmp_path_factory.mktemp("damaged")
        shutil.copytree(folder, copy, dirs_exist_ok=True)
        damage(copy)
        with pytest.raises(CorpusError, match=message + r".*; run `dvc repro prepare`"):
            Corpus.open(copy)


def test_an_array_emptied_later_is_an_error_with_the_command_to_run(folder):
    song = Corpus.open(folder).songs[0]
    song.path.write_bytes(b"")
    with pytest.raises(CorpusError, match="cannot be opened; run `dvc repro prepare`"):
        _ = song.samples


def test_a_corpus_of_the_present_format_is_read(tmp_path):
    """The layout in the folders of users; a change of it needs another format number."""
    entry = {
        "slug": "a",
        "source": "a.wav",
        "sha256": "0" * 64,
        "source_sample_rate_hz": 48000,
        "sample_rate_hz": 44100,
        "frames": 9,
        "channels": 1,
        "peak": 5,
        "splits": {"train": [0, 6], "test": [7, 9]},
    }
    document = {"format": 2, "sample_rate_hz": 44100, "songs": [entry]}
    (tmp_path / "songs.json").write_text(json.dumps(document))
    np.save(tmp_path / "a.npy", np.arange(9, dtype=np.int16)[:, None])
    (song,) = Corpus.open(tmp_path)
    assert song == prepared("a", {"train": (0, 6), "test": (7, 9)}, 9, tmp_path, channels=1)


class MakesFolder:
    """Creates a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.mkdir, (self.path,)


def test_a_pickled_song_is_never_loaded(folder):
    songs = Corpus.open(folder).songs
    songs[0].path.write_bytes(pickle.dumps(MakesFolder(folder / "unpickled")))
    assert not has_array(songs[0])
    with pytest.raises(CorpusError, match=r"a\.npy: cannot be opened; run `dvc repro prepare`"):
        _ = songs[0].samples
    assert not (folder / "unpickled").exists()


def test_songs_and_corpora_are_immutable(folder):
    corpus = Corpus.open(folder)
    assert_sealed(corpus)
    assert_sealed(corpus["a"])


@pytest.mark.usefixtures("few_open_files")
def test_many_songs_hold_no_open_files(folder):
    songs = [replace(song) for song in Corpus.open(folder) for _ in range(300)]
    assert len([song.samples[0].tolist() for song in songs]) == len(songs)


# Names.


def test_slugs_are_ascii_distinct_and_independent_of_order():
    names = [
        "Für Élise.wav",
        "Fur Elise.flac",
        "fur-elise.WAV",
        "日本.mp3",
        "中国.mp3",
        "a  b__c.ogg",
        ".wav.wav",
        "---.wav",
        "x" * 250 + ".wav",
        "solo.wav",
        os_name := b"\xe9t\xe9.wav".decode("utf-8", "surrogateescape"),
    ]
    given_ = slugs(names)
    assert given_["solo.wav"] == "solo"
    assert given_["a  b__c.ogg"] == "a-b-c"
    assert given_["Für Élise.wav"] != given_["fur-elise.WAV"]
    assert {given_["Für Élise.wav"], given_["fur-elise.WAV"]} == {
        "fur-elise-wav",
        "fur-elise-wav-2",
    }
    assert given_["日本.mp3"].startswith("song-")
    assert given_[os_name] == "t"
    assert len(set(given_.values())) == len(names)
    assert all(s.isascii() and s.strip("-") == s and len(s) <= 110 for s in given_.values())
    assert slugs(reversed(names)) == given_


def test_decomposed_and_composed_names_have_one_slug():
    assert set(slugs(["e\u0301.wav"]).values()) == set(slugs(["\u00e9.wav"]).values())


@given(st.lists(st.text("aA-.1é", min_size=1, max_size=6), max_size=8, unique=True))
def test_slugs_never_collide(stems):
    names = [f"{stem}{suffix}" for stem in stems for suffix in (".wav", ".mp3")]
    assert len(set(slugs(names).values())) == len(set(names))


# Whole files.


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "a.json"
    write_json(target, {"b": 1, "a": "é"})
    assert json.loads(target.read_text()) == {"b": 1, "a": "é"}
    before = target.read_bytes()
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    with pytest.raises(ValueError, match="JSON"):
        write_json(target, float("nan"))
    assert target.read_bytes() == before
    assert list(tmp_path.iterdir()) == [target]


def test_sha256_of_file_hashes_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of_file(tmp_path / "a").startswith("ba7816bf8f01cfea414140de5dae2223")


# Arrays.


def test_an_array_is_what_numpy_reads_and_cannot_be_written(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.arange(12, dtype=np.int16).reshape(6, 2))
    array = open_array(path)
    assert np.array_equal(array, np.load(path))
    assert array.dtype == np.int16
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


def test_a_pickle_is_not_loaded_as_an_array(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="objects"):
        open_array(path)


def test_two_threads_never_parse_an_array_header_at_once(tmp_path, monkeypatch):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros(3))
    load, inside, most = np.load, [], []

    def slow_load(*args, **kwargs):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.01)
        inside.pop()
        return load(*args, **kwargs)

    monkeypatch.setattr(np, "load", slow_load)
    threads = [threading.Thread(target=open_array, args=(path,)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 6


@pytest.mark.parametrize("seconds", [None, 0.5, 9.0, 20.0, 33.0])
def test_passages_of_a_budget_lie_in_the_split_and_cost_no_more_than_the_budget(seconds):
    rng = np.random.default_rng(1)
    for _ in range(300):
        start, length = (int(n) for n in rng.integers([0, 1], [900, 3000]))
        start = int(rng.choice([0, start]))
        warm_up = float(rng.choice([0.0, 2.0, 15.0]))
        budget = Budget(seconds=seconds, warm_up_seconds=warm_up)
        spans = budget.spans(start, start + length, 10)
        for first, begin, stop in spans:
            assert 0 <= first <= begin < stop <= start + length
            assert begin >= start
            assert first == 0 or begin - first == 10 * warm_up
        assert all(a[2] <= b[1] for a, b in itertools.pairwise(spans))
        if seconds is None:
            assert spans == [(0, start, start + length)]
            continue
        # A passage lasts five seconds or more.
        count = max(round(seconds / 5.0), 1)
        wanted = 10 * max(seconds, 5.0 * count)
        cost = sum(stop - first for first, _, stop in spans)
        assert cost <= wanted + count * (10 * warm_up + 1)
        # Spread over the whole split, unless all of it is used.
        if len(spans) > 1:
            assert (spans[0][1], spans[-1][2]) == (start, start + length)
            assert sum(stop - begin for _, begin, stop in spans) == pytest.approx(wanted, abs=9)


@pytest.mark.skipif(sys.platform != "linux", reason="counts in /proc")
def test_dropped_pages_leave_the_process_and_keep_their_content(tmp_path):
    x = np.arange(8_000_000, dtype=np.int16).reshape(-1, 2)
    np.save(tmp_path / "a.npy", x)

    def mapped_kb():
        status = Path("/proc/self/status").read_text()
        return int(status.partition("RssFile:")[2].split()[0])

    for mode in ("r", "r+", "c"):
        array = np.load(tmp_path / "a.npy", mmap_mode=mode)
        part = array[1000:, :1]
        before = mapped_kb()
        assert part.sum(dtype=np.int64) == x[1000:, :1].sum(dtype=np.int64)
        if mode != "r":
            array[5] = -7
        assert mapped_kb() > before + 12_000
        drop_pages(part)
        assert (mapped_kb() < before + 4_000) == (mode != "c")
        assert array[5].tolist() == ([10, 11] if mode == "r" else [-7, -7])
        drop_pages(x)  # an array in memory stays as it is
    assert x[5].tolist() == [10, 11]

"""Ten thousand songs: cost grows at most linearly, and finished work is kept."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from songcast.audio.songs import Song, write_song
from songcast.data.corpus import Corpus, PreparedSong, has_array, split_frames, write_index
from songcast.training.batches import CropSampler
from songcast.training.feature_cache import DTYPES, SongFeatures
from songcast.training.validation import VALIDATION_SONGS, validation_songs

RATE_HZ = 44100
FRACTIONS = {"train": 0.7, "validation": 0.1, "test": 0.2}


@pytest.fixture(scope="module")
def streams(tmp_path_factory):
    """The features of one song, which ten thousand share here: (2, 640 frames)."""
    folder = tmp_path_factory.mktemp("features")
    shapes = {"samples": (640,), "distances": (640, 2), "mixing": (1, 13), "differences": (640, 2),
              "summary": (40, 24)}  # fmt: skip
    rng = np.random.default_rng(0)
    for name, dtype in DTYPES.items():
        np.save(folder / f"{name}.npy", rng.uniform(1, 2, (2, *shapes[name])).astype(dtype))
    return folder


def song_of(folder, number, splits):
    return SongFeatures(
        slug=f"s{number}",
        channels=2,
        experts=3,
        step_frames=16,
        splits=splits,
        folder=folder,
        write=lambda _: None,
    )


def sampler_of(folder, songs, batch_size=8, shares=None):
    features = [song_of(folder, number, {"train": (0, 640)}) for number in range(songs)]
    return CropSampler(
        features, batch_size=batch_size, frames=64, look_back=8, seed=1, shares=shares
    )


def cpu_seconds(work, times=30):
    """The least of several."""
    seconds = []
    for number in range(times):
        start = time.thread_time()
        work(number)
        seconds.append(time.thread_time() - start)
    return min(seconds)


def test_a_batch_costs_the_same_from_ten_songs_and_from_ten_thousand(streams):
    few, many = sampler_of(streams, 10), sampler_of(streams, 10_000)
    least = cpu_seconds(lambda number: few.batch(0, number))
    assert cpu_seconds(lambda number: many.batch(0, number)) < 2 * least + 0.001


@pytest.mark.skipif(sys.platform != "linux", reason="counts in /proc")
def test_ten_thousand_songs_hold_no_open_files(streams):
    before = len(list(Path("/proc/self/fd").iterdir()))
    sampler = sampler_of(streams, 10_000)
    batches = [sampler.batch(0, number) for number in range(5)]
    assert len(batches) == 5
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def test_validation_songs_are_evenly_spread_over_those_with_a_passage(streams):
    for songs in (3, VALIDATION_SONGS, 10_000):
        splits = ({"train": (0, 640)}, {"validation": (0, 640)})
        all_songs = [song_of(streams, n, split) for split in splits for n in range(songs)]
        numbers = [int(song.slug[1:]) for song in validation_songs(all_songs)]
        assert len(numbers) == min(songs, VALIDATION_SONGS)
        assert numbers[0] == 0
        gaps = np.diff([*numbers, songs])
        assert gaps.max() - gaps.min() <= 1


def test_the_parts_of_all_workers_are_the_whole_batch(streams):
    sampler = sampler_of(streams, 50, batch_size=12)
    _, whole = sampler.batch(3, 4)
    for workers in (1, 2, 3, 4, 12):
        parts = [sampler.batch(3, 4, rank, workers)[1] for rank in range(workers)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_a_worker_reads_all_songs_of_its_share_and_no_other(streams, monkeypatch):
    """The shares of all workers are the songs; only one on a border is in two of them."""
    read = set()

    def record(places, *_):
        read.update(song.slug for song, _, _ in places)
        return {}, np.zeros(1)

    monkeypatch.setattr("songcast.training.batches.network_inputs", record)
    rng = np.random.default_rng(0)
    uneven = rng.permutation([0.0, 0.0, *rng.uniform(0.2, 2, 28)]).tolist()
    for shares, workers in itertools.product((None, uneven), (1, 2, 3, 4)):
        sampler = sampler_of(streams, 30, 12, shares)
        counts, validated = Counter(), Counter()
        for rank in range(workers):
            read.clear()
            for index in range(300):
                sampler.batch(0, index, rank, workers)
            to_read, to_validate = sampler.share(rank, workers)
            assert read == {song.slug for song in to_read}
            counts.update(read)
            validated.update(song.slug for song in to_validate)
        drawn = [f"s{n}" for n in range(30) if not shares or shares[n]]
        assert sorted(counts) == sorted(drawn)
        border = sum(counts.values()) - len(counts)
        # Thirty equal songs divide by two and by three, but not by four.
        assert border == (0 if workers == 1 else (workers - 1) if shares else 2 * (workers == 4))
        assert validated == Counter(f"s{n}" for n in range(30))


def test_opening_ten_thousand_songs_takes_seconds(tmp_path):
    array = tmp_path / "one.npy"
    np.save(array, np.zeros((2000, 2), np.int16))
    songs = []
    for number in range(10_000):
        path = tmp_path / f"song-{number:05d}.npy"
        path.hardlink_to(array)
        songs.append(
            PreparedSong(
                slug=path.stem,
                source=f"{path.stem}.wav",
                sha256="0" * 64,
                source_sample_rate_hz=RATE_HZ,
                sample_rate_hz=RATE_HZ,
                frames=2000,
                channels=2,
                peak=0,
                splits=split_frames(2000, RATE_HZ, FRACTIONS, 0.001),
                path=path,
            )
        )
    write_index(tmp_path, RATE_HZ, songs)
    start = time.thread_time()
    corpus = Corpus.open(tmp_path)
    assert time.thread_time() - start < 6
    assert len(corpus) == 10_000
    assert corpus["song-09999"].samples.shape == (2000, 2)
    assert has_array(corpus["song-00000"])


def generate(folder, songs, first=0):
    """Write short songs, each another one."""
    folder.mkdir(exist_ok=True)
    noise = np.random.default_rng(0).normal(0, 900, (4410 + songs + first, 1))
    for number in range(first, first + songs):
        samples = np.rint(noise[number : number + 4410]).astype(np.int16)
        song = Song(samples=samples, sample_rate_hz=RATE_HZ, name="noise")
        write_song(song, folder / f"song-{number:05d}.wav")


def start(home):
    command = [sys.executable, "-m", "songcast.stages.prepare"]
    environment = {k: v for k, v in os.environ.items() if k != "DVC_ROOT"}
    return subprocess.Popen(command, cwd=home, env=environment, text=True, stderr=subprocess.PIPE)


def run(home):
    process = start(home)
    lines = process.communicate()[1].splitlines()
    assert process.returncode == 0, lines
    return lines


@pytest.mark.slow
def test_prepare_killed_among_many_songs_resumes_and_then_decodes_only_a_new_one(tmp_path):
    shutil.copy(Path(__file__).parents[2] / "params.yaml", tmp_path)
    generate(tmp_path / "data", 1000)
    decoded = tmp_path / "prepared" / ".incoming"
    process = start(tmp_path)
    while len(list(decoded.glob("[!.]*.npy"))) < 300:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finished = len(list(decoded.glob("[!.]*.npy")))
    lines = run(tmp_path)
    assert lines[0] == f"{finished} songs were decoded before the last run stopped"
    assert sum(" -> " in line for line in lines) == 1000 - finished
    generate(tmp_path / "data", 1, first=1000)
    lines = run(tmp_path)
    words = [line.partition(" ")[0] for line in lines]
    # The songs are short: ten warnings, and the number of the others.
    assert words == ["song-01000.wav", *["warning:"] * 10, "991", "1001"]
    assert len(Corpus.open(tmp_path / "prepared")) == 1001

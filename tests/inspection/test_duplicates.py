"""The same recording twice: found in any form, with what leaks; different songs are not."""

import subprocess

import imageio_ffmpeg
import numpy as np
import pytest

from helpers.inspected import inspect_song
from helpers.prepare_params import prepare_params
from songcast.audio.songs import Song, write_song
from songcast.errors import CorpusError
from songcast.inspection.duplicates import duplicates, match
from songcast.stages.prepare import prepare

RATE = 22050
FORMS = {
    "mp3.mp3": ["-b:a", "96k"],
    "cut.flac": ["-ss", "3"],
    "soft.flac": ["-af", "volume=-6dB"],
    "48k.wav": ["-ar", "48000"],
    "mono.ogg": ["-ac", "1"],
    "all.mp3": ["-ss", "3.05", "-af", "volume=-6dB", "-ar", "48000", "-b:a", "96k"],
}


def tune(seed, seconds=24.0):
    """Notes with overtones and decay, stereo int16."""
    rng = np.random.default_rng(seed)
    x = np.zeros((int(seconds * RATE), 2))
    for start in np.arange(0, seconds - 0.5, 0.25):
        t = np.arange(int(0.8 * RATE)) / RATE
        hz = 110 * 2 ** (rng.integers(0, 36) / 12)
        note = sum(np.sin(2 * np.pi * hz * k * t) / k for k in range(1, 6)) * np.exp(-4 * t)
        first = int(start * RATE)
        part = x[first : first + len(t)]
        part += 4000 * (note[:, None] * rng.uniform(0.3, 1, 2))[: len(part)]
    return x.astype(np.int16)


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    """Four songs, and each of ``FORMS`` of the first."""
    folder = tmp_path_factory.mktemp("songs")
    for seed in range(4):
        song = Song(samples=tune(seed), sample_rate_hz=RATE, name="x")
        write_song(song, folder / f"song{seed}.flac")
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "quiet", "-i", folder / "song0.flac"]
    for name, options in FORMS.items():
        subprocess.run([*ffmpeg, *options, folder / name], check=True)
    return folder


def test_every_form_of_a_song_is_found_at_its_shift_and_no_other_song(songs):
    items = {p.stem: inspect_song(p)[1] for p in sorted(songs.iterdir())}
    splits = {name: {"train": (0.0, 16.0), "test": (19.0, 24.0)} for name in items}
    found = {tuple(pair["songs"]): pair for pair in duplicates(items, splits)}
    copies = {name for name in items if name in {form.partition(".")[0] for form in FORMS}}
    assert {a for pair in found for a in pair} == copies | {"song0"}
    for name in copies:
        (pair,) = (found[p] for p in found if set(p) == {name, "song0"})
        start = dict(zip(pair["songs"], pair["starts"], strict=True))
        cut = 3.0 if name in ("cut", "all") else 0.0
        assert start["song0"] - start[name] == pytest.approx(cut, abs=0.2)
        # The training passage of the cut copy ends at 19 s of the song, where its test starts.
        assert pair["leak_seconds"] == 0.0
    splits["soft"] = {"test": (0.0, 24.0)}
    leaks = {
        pair["songs"][0]: pair["leak_seconds"]
        for pair in duplicates(items, splits)
        if set(pair["songs"]) == {"soft", "song0"}
    }
    assert leaks["soft"] == pytest.approx(16, abs=1.5)


def test_noise_silence_and_short_songs_match_nothing():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 2**32, (2, 400), dtype=np.uint32)
    assert match(a, b) is None
    assert match(np.zeros(400, np.uint32), np.zeros(300, np.uint32)) is None
    assert match(a[:5], a[:5]) is None
    assert match(a[100:300], a) == (0, 200, 100)


def test_songs_that_end_on_the_same_held_note_are_not_the_same_recording(tmp_path):
    t = np.arange(12 * RATE) / RATE
    note = sum(np.sin(2 * np.pi * 110 * k * t) / k for k in range(1, 6)) * np.exp(-0.2 * t)
    items = {}
    for seed in (0, 1):
        hiss = np.random.default_rng(seed).normal(0, 20, (len(t), 2))
        ending = (4000 * note[:, None] + hiss).astype(np.int16)
        samples = np.concatenate([tune(seed), ending])
        path = tmp_path / f"{seed}.flac"
        write_song(Song(samples=samples, sample_rate_hz=RATE, name="x"), path)
        items[str(seed)] = inspect_song(path)[1]
    a, b = (end[-60:] for end in items.values())
    assert np.bitwise_count(a ^ b).mean() < 7  # they sound alike
    assert match(*items.values()) is None


def test_prepare_warns_about_a_leak_or_refuses_it(songs, tmp_path, caplog):
    data = tmp_path / "data"
    data.mkdir()
    for name in ("song0.flac", "song1.flac", "cut.flac"):
        (data / name).write_bytes((songs / name).read_bytes())
    settings = prepare_params(held_out=("cut.flac",))
    prepare(data, tmp_path / "prepared", settings)
    (line,) = [m for m in caplog.messages if "same recording" in m]
    assert "cut and song0" in line and "of a test passage are in a training passage" in line
    before = (tmp_path / "prepared" / "songs.json").read_bytes()
    first = (tmp_path / "metrics" / "data.json").read_bytes()
    prepare(data, tmp_path / "prepared", settings)
    assert (tmp_path / "metrics" / "data.json").read_bytes() == first
    with pytest.raises(CorpusError, match=r"^cut and song0 share .* set prepare.on_leak to warn$"):
        prepare(data, tmp_path / "prepared", prepare_params(held_out=("cut",), on_leak="fail"))
    assert (tmp_path / "prepared" / "songs.json").read_bytes() == before

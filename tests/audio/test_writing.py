"""Writing songs. Oracles: the standard library's wave, libsndfile, the original samples."""

import os
import subprocess
import sys
import tempfile
import wave

import imageio_ffmpeg
import numpy as np
import pytest

from songcast.audio import songs
from songcast.audio.encoders import _BY_PYDUB, WRITABLE_SUFFIXES
from songcast.audio.songs import Song, check_writable, read_song, write_song
from songcast.errors import AudioError

FULL = np.iinfo(np.int16)


def song_of(samples, rate=44100):
    return Song(samples=np.asarray(samples, np.int16), sample_rate_hz=rate, name="test")


def test_wav_and_flac_are_written_without_loss(tmp_path, make_song):
    square = np.where(np.arange(5000) // 50 % 2, FULL.max, FULL.min).reshape(-1, 1)
    constants = [np.zeros((5000, 2)), np.full((5000, 1), -1234), np.full((1, 2), FULL.min)]
    for suffix in (".wav", ".flac", ".WAV"):
        path = tmp_path / f"a{suffix}"
        for channels, rate in [(1, 8000), (2, 44100), (2, 96000)]:
            song = make_song(70000, channels, rate)
            write_song(song, path)
            result = read_song(path)
            np.testing.assert_array_equal(result.samples, song.samples)
            assert result.sample_rate_hz == rate
        for samples in [square, *constants]:
            write_song(song_of(samples), path)
            np.testing.assert_array_equal(read_song(path).samples, samples)


def test_the_standard_library_reads_a_written_wav(tmp_path, chord):
    write_song(chord, tmp_path / "a.wav")
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert (file.getframerate(), file.getsampwidth(), file.getnchannels()) == (44100, 2, 2)
        assert file.readframes(10**6) == chord.samples.astype("<i2").tobytes()


def test_a_strided_view_can_be_written(tmp_path, chord):
    view = song_of(chord.samples)
    object.__setattr__(view, "samples", chord.samples[::-2])
    write_song(view, tmp_path / "a.wav")
    np.testing.assert_array_equal(read_song(tmp_path / "a.wav").samples, chord.samples[::-2])


def test_a_rate_that_the_format_lacks_is_resampled_to_the_next_higher_one(tmp_path, make_song):
    for suffix, rate, written in [
        *[(".mp3", 96000, 48000), (".mp3", 44000, 44100), (".mp3", 4000, 8000)],
        *[(".m4a", 96000, 96000), (".m4a", 44000, 44100), (".m4a", 4000, 7350)],
    ]:
        write_song(make_song(rate, 1, rate), tmp_path / f"a{suffix}")
        result = read_song(tmp_path / f"a{suffix}")
        padding = 0 if suffix == ".mp3" else 1024
        assert result.sample_rate_hz == written
        assert written <= result.frames <= written + padding


def test_both_channels_of_a_lossy_song_stay_apart(tmp_path):
    """libsndfile wrote stereo mp3 from int16 as noise; here left and right are unlike tones."""
    seconds = np.arange(20000)[:, None] / 44100
    song = song_of(np.rint(9000 * np.sin(2 * np.pi * np.array([[440.0, 1000.0]]) * seconds)))
    expected = song.samples.astype(float)[4000:16000]
    for suffix in (".mp3", ".m4a", ".ogg"):
        write_song(song, tmp_path / f"a{suffix}")
        result = read_song(tmp_path / f"a{suffix}").samples.astype(float)[4000:16000]
        for channel in (0, 1):
            assert np.corrcoef(expected[:, channel], result[:, channel])[0, 1] > 0.99
            assert abs(np.corrcoef(expected[:, channel], result[:, 1 - channel])[0, 1]) < 0.05


def test_lossy_writing_leaves_no_temporary_file_even_when_it_fails(tmp_path, monkeypatch, chord):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    for suffix in _BY_PYDUB:
        write_song(chord, tmp_path / f"good{suffix}")
    for suffix in _BY_PYDUB:
        broken = ("mp3", ["-c:a", "no_such_encoder"], (44100,))
        monkeypatch.setitem(_BY_PYDUB, suffix, broken)
        with pytest.raises(AudioError, match=r"cannot be written .*no_such_encoder.*; try \.wav"):
            write_song(chord, tmp_path / f"bad{suffix}")
    assert list(scratch.iterdir()) == []
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"scratch", *(f"good{suffix}" for suffix in _BY_PYDUB)}


def test_lossy_writing_without_ffmpeg_names_the_missing_package(tmp_path, monkeypatch, chord):
    def missing():
        raise RuntimeError("No ffmpeg exe could be found.")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", missing)
    with pytest.raises(AudioError, match="no ffmpeg: pip install imageio-ffmpeg"):
        write_song(chord, tmp_path / "a.mp3")


def test_refusals_are_one_line_leave_nothing_and_check_writable_gives_the_same(
    tmp_path, chord, make_song
):
    (tmp_path / "old.wav").write_bytes(b"old")
    (tmp_path / "folder.wav").mkdir()
    before = sorted(tmp_path.rglob("*"))
    check_writable(tmp_path / "old.wav")
    check_writable(tmp_path / "new.m4a")
    for name, reason in [
        ("a.xyz", "cannot write xyz; use one of .wav .flac .ogg .mp3 .m4a"),
        ("a", "cannot write a file without suffix"),
        ("none/a.wav", "cannot be written (No such file or directory)"),
        ("x" * 300 + ".wav", "cannot be written (File name too long)"),
        ("folder.wav", "exists and is not a file"),
    ]:
        path = tmp_path / name
        with pytest.raises(AudioError) as checked:
            check_writable(path)
        with pytest.raises(AudioError) as written:
            write_song(chord, path)
        assert str(checked.value) == str(written.value)
        assert str(written.value).startswith(f"{path}: {reason}")
    for name, song, reason in [
        ("a.mp3", make_song(50, 6), "cannot be written (6 channels at 44100 Hz"),
        ("a.flac", make_song(50, 1, 10**6), "cannot be written (1 channels at 1000000"),
        ("a.wav", make_song(0), "there are no samples to write"),
    ]:
        with pytest.raises(AudioError) as caught:
            write_song(song, tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}: {reason}")
    assert (tmp_path / "old.wav").read_bytes() == b"old"
    assert sorted(tmp_path.rglob("*")) == before


def test_songs_beyond_the_4_gb_of_a_wav_header_are_refused_except_as_flac(tmp_path, monkeypatch):
    """A wav counts its bytes in 32 bits; 4 KB of them are left for everything but the samples."""
    monkeypatch.setattr(songs, "encode", lambda path, *song: path.write_bytes(b"written"))

    def silence(frames):  # takes no memory
        samples = np.broadcast_to(np.int16(0), (frames, 1))
        return Song(samples=samples, sample_rate_hz=44100, name="silence")

    largest = (2**32 - 4096) // 2
    for suffix in (".wav", ".mp3", ".M4A"):
        write_song(silence(largest), tmp_path / f"a{suffix}")
        reason = rf"the song is too long for {suffix[1:].lower()} \(4 GB\); use \.flac"
        with pytest.raises(AudioError, match=reason):
            write_song(silence(largest + 1), tmp_path / f"b{suffix}")
    write_song(silence(largest + 1), tmp_path / "b.flac")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.M4A", "a.mp3", "a.wav", "b.flac"]


def test_a_full_disk_leaves_the_old_file(tmp_path):
    script = (
        "import resource, sys, numpy as np; from songcast.audio.songs import Song, write_song\n"
        "x = np.random.default_rng(0).integers(-9000, 9000, (99999, 2)).astype(np.int16)\n"
        "from songcast.errors import AudioError\n"
        "for path in sys.argv[1:]:\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, -1))\n"
        "    try: write_song(Song(samples=x, sample_rate_hz=44100, name='x'), path)\n"
        "    except AudioError as error: print(error)\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))\n"
    )
    paths = [tmp_path / f"a{suffix}" for suffix in WRITABLE_SUFFIXES]
    for path in paths:
        path.write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", script, *paths], capture_output=True, text=True)
    assert done.stdout.count("cannot be written") == len(paths), done.stderr
    assert {path.read_bytes() for path in paths} == {b"old"}
    assert sorted(tmp_path.iterdir()) == sorted(paths)


def test_writing_replaces_a_file_at_once_and_honours_the_umask(tmp_path, chord):
    path = tmp_path / "a.wav"
    path.write_bytes(b"old")
    with path.open("rb") as old:
        write_song(chord, path)
        assert old.read() == b"old"  # the reader of the old file was not disturbed
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask

"""Hostile bytes end in one line, in a process that may crash, hang or swell without harm."""

import itertools
import os
import signal

import numpy as np
import pytest

from helpers.mutated_songs import mutated_songs, short_songs
from songcast.audio.songs import Song, write_song
from songcast.errors import AudioError
from songcast.serving.decoder import Decoder


def new_decoder(max_frames=14_400_000, seconds=60.0, memory_bytes=4 * 2**30):
    return Decoder(max_frames, seconds, memory_bytes)


@pytest.fixture(scope="module")
def decoder():
    found = new_decoder(max_frames=200_000)
    yield found
    found.close()


def file_bytes(song, suffix, folder):
    write_song(song, folder / f"song{suffix}")
    return (folder / f"song{suffix}").read_bytes()


def test_it_decodes_as_read_song_does(decoder, chord, tmp_path):
    found = decoder.decode(file_bytes(chord, ".flac", tmp_path), "mine")
    np.testing.assert_array_equal(found.samples, chord.samples)
    assert (found.sample_rate_hz, found.name) == (44100, "mine")
    with pytest.raises(AudioError, match=r"^mine") as caught:
        decoder.decode(b"RIFF....", "mine")
    assert "/tmp" not in str(caught.value) and "song.file" not in str(caught.value)


def test_a_decoder_that_dies_is_one_refusal_and_then_works_again(chord, tmp_path):
    content = file_bytes(chord, ".wav", tmp_path)
    decoder = new_decoder()
    decoder.decode(content, "x")
    os.kill(decoder._process.pid, signal.SIGSTOP)  # as good as hanging
    decoder.seconds = 0.3
    with pytest.raises(AudioError, match=r"x: cannot be decoded within 0\.3 s"):
        decoder.decode(content, "x")
    decoder.seconds = 60.0
    assert decoder.decode(content, "x").frames == chord.frames
    os.kill(decoder._process.pid, signal.SIGSEGV)
    decoder._process.wait()
    assert decoder.decode(content, "x").frames == chord.frames
    decoder.close()


def test_a_decoder_has_no_more_memory_than_it_may(tmp_path):
    """A song of 200 MB in a process that may hold 1 GB with its libraries."""
    decoder = new_decoder(memory_bytes=512 * 2**20, max_frames=10**9)
    silence = np.zeros((50_000_000, 2), np.int16)
    content = file_bytes(Song(samples=silence, sample_rate_hz=44100, name=""), ".flac", tmp_path)
    with pytest.raises(AudioError, match="cannot be decoded within"):
        decoder.decode(content, "big")
    decoder.close()


def test_raw_samples_are_read_there_too(decoder):
    """Eight million empty lists: 24 MB of text, half a gigabyte when it is read."""
    found = decoder.decode(b'{"samples": [1, -2], "sample_rate_hz": 8000}', "mine")
    assert (found.samples.tolist(), found.sample_rate_hz) == ([[1], [-2]], 8000)
    small = new_decoder(memory_bytes=512 * 2**20)
    text = b'{"sample_rate_hz": 8000, "samples": [' + b"[]," * 2**23 + b"[]]}"
    with pytest.raises(AudioError, match=r"^mine: cannot be decoded within"):
        small.decode(text, "mine")
    small.close()


def survive(decoder, songs, count, seed):
    """Decode ``count`` mutations; whatever happens is a song or one line."""
    processes = set()
    for content in itertools.islice(mutated_songs(songs, seed), count):
        try:
            song = decoder.decode(content, "it")
            assert song.samples.dtype == np.int16 and 1 <= song.channels <= 2
        except AudioError as error:
            assert str(error).startswith("it: ") and "\n" not in str(error)
        processes.add(decoder._process.pid if decoder._process else None)
    return processes


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    return short_songs(tmp_path_factory.mktemp("songs"))


def test_mutated_songs_never_crash_a_decoder(decoder, songs):
    assert len(survive(decoder, songs, 120, seed=1)) == 1


@pytest.mark.slow
def test_ten_thousand_mutated_songs_never_crash_a_decoder_nor_fill_it(decoder, songs):
    import psutil

    survive(decoder, songs, 100, seed=2)
    process = psutil.Process(decoder._process.pid)
    before = process.memory_info().rss
    assert len(survive(decoder, songs, 10_000, seed=3)) == 1
    assert process.memory_info().rss < before + 50 * 2**20

"""The decoder process: hostile files give one-line errors; a crash affects one request only."""

import base64
import itertools
import os
import signal
import threading
from collections import Counter

import httpx
import numpy as np
import psutil
import pytest

from helpers.mutated_songs import mutated_songs, short_songs
from helpers.serving_models import songcast_serve
from helpers.small_models import ridge
from songcast.audio.songs import Song, write_song
from songcast.errors import AudioError
from songcast.serving.decoder import Decoder

# The full check: SONGCAST_MUTATED_UPLOADS=10000
UPLOADS = int(os.environ.get("SONGCAST_MUTATED_UPLOADS", "2000"))
CLIENTS, WARM_UP = 4, 200
MAX_GROWTH_BYTES = 64 * 2**20


def new_decoder(max_frames=14_400_000, memory_bytes=4 * 2**30):
    return Decoder(max_frames, 60.0, memory_bytes)


@pytest.fixture(scope="module")
def decoder():
    decoder = new_decoder(max_frames=200_000)
    yield decoder
    decoder.close()


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    return short_songs(tmp_path_factory.mktemp("songs"))


def encoded(song, suffix, folder):
    write_song(song, folder / f"song{suffix}")
    return (folder / f"song{suffix}").read_bytes()


def test_songs_are_decoded_as_by_read_song_and_errors_name_the_song(decoder, chord, tmp_path):
    song = decoder.decode(encoded(chord, ".flac", tmp_path), "mine")
    np.testing.assert_array_equal(song.samples, chord.samples)
    assert (song.sample_rate_hz, song.name) == (44100, "mine")
    song = decoder.decode(b'{"samples": [1, -2], "sample_rate_hz": 8000}', "mine")
    assert (song.samples.tolist(), song.sample_rate_hz) == ([[1], [-2]], 8000)
    with pytest.raises(AudioError, match=r"^mine") as caught:
        decoder.decode(b"RIFF....", "mine")
    assert "/tmp" not in str(caught.value) and "song.file" not in str(caught.value)


def test_damage_is_logged_with_the_name_of_the_song(decoder, chord, tmp_path, caplog):
    content = encoded(chord, ".wav", tmp_path)
    song = decoder.decode(content[: len(content) * 3 // 4], "mine")
    assert 0 < song.frames < chord.frames
    (line,) = [record.message for record in caplog.records]
    assert line == f"mine: {song.frames} of {chord.frames} declared frames can be read"


def test_a_decoder_that_hangs_or_crashes_is_replaced(chord, tmp_path):
    content = encoded(chord, ".wav", tmp_path)
    decoder = new_decoder()
    decoder.decode(content, "x")
    os.kill(decoder._process.pid, signal.SIGSTOP)
    decoder.seconds = 0.3
    with pytest.raises(AudioError, match=r"x: cannot be decoded within 0\.3 s"):
        decoder.decode(content, "x")
    decoder.seconds = 60.0
    assert decoder.decode(content, "x").frames == chord.frames
    os.kill(decoder._process.pid, signal.SIGSEGV)
    decoder._process.wait()
    assert decoder.decode(content, "x").frames == chord.frames
    decoder.close()


def test_a_decoder_cannot_exceed_its_memory_limit(tmp_path):
    """200 MB of samples in 512 MB of address space; 24 MB of JSON that need half a gigabyte."""
    silence = np.zeros((50_000_000, 2), np.int16)
    flac = encoded(Song(samples=silence, sample_rate_hz=44100, name=""), ".flac", tmp_path)
    raw = b'{"sample_rate_hz": 8000, "samples": [' + b"[]," * 2**23 + b"[]]}"
    decoder = new_decoder(memory_bytes=512 * 2**20, max_frames=10**9)
    for content in (flac, raw):
        with pytest.raises(AudioError, match="big: cannot be decoded within"):
            decoder.decode(content, "big")
    decoder.close()


def decode_mutations(decoder, songs, count, seed):
    """Decode ``count`` mutated songs; return the ids of the decoder processes."""
    processes = set()
    for content in itertools.islice(mutated_songs(songs, seed), count):
        try:
            song = decoder.decode(content, "it")
            assert song.samples.dtype == np.int16 and 1 <= song.channels <= 2
        except AudioError as error:
            assert str(error).startswith("it: ") and "\n" not in str(error)
        processes.add(decoder._process.pid if decoder._process else None)
    return processes


def test_mutated_songs_do_not_crash_the_decoder(decoder, songs):
    assert len(decode_mutations(decoder, songs, 120, seed=1)) == 1


@pytest.mark.slow
def test_ten_thousand_mutated_songs_neither_crash_the_decoder_nor_fill_its_memory(decoder, songs):
    decode_mutations(decoder, songs, 100, seed=2)
    process = psutil.Process(decoder._process.pid)
    before = process.memory_info().rss
    assert len(decode_mutations(decoder, songs, 10_000, seed=3)) == 1
    assert process.memory_info().rss < before + 50 * 2**20


def upload(url, contents):
    """Score all ``contents`` with several clients at once; count the statuses."""
    statuses, unexpected, lock = Counter(), [], threading.Lock()

    def client():
        with httpx.Client(base_url=url, timeout=300, trust_env=False) as http:
            while True:
                with lock:
                    content = next(contents, None)
                if content is None:
                    return
                song = base64.b64encode(content).decode()
                body = {"inputs": [song], "params": {"task": "score"}}
                response = http.post("/invocations", json=body)
                statuses[response.status_code] += 1
                if response.status_code != 200 and "\n" in response.json()["message"]:
                    unexpected.append(response.text)

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert unexpected == []
    return statuses


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_mutated_uploads_leave_the_server_running_within_its_memory(songs, tmp_path):
    ridge().save(tmp_path / "ridge", {})
    with songcast_serve("--model", str(tmp_path / "ridge")) as (process, client):
        server = psutil.Process(process.pid)

        def resident_bytes():
            return sum(p.memory_info().rss for p in (server, *server.children(recursive=True)))

        contents = mutated_songs(songs, seed=4)
        upload(client.base_url, itertools.islice(contents, WARM_UP))
        before, decoders = resident_bytes(), {p.pid for p in server.children()}
        statuses = upload(client.base_url, itertools.islice(contents, UPLOADS))
        growth = resident_bytes() - before
        assert sum(statuses.values()) == UPLOADS
        assert set(statuses) <= {200, 413, 422}
        assert min(statuses[200], statuses[422]) > UPLOADS / 20  # both outcomes are tested
        assert growth < MAX_GROWTH_BYTES
        assert {p.pid for p in server.children()} == decoders  # no decoder was replaced
        assert client.get("/ping").status_code == 200

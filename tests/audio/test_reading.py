"""Reading songs: exact samples, names, blocks, and one-line refusals of what is no song."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.audio_files import encode, flac_bytes, music, place_of, wav_bytes
from helpers.records import assert_sealed
from songcast.audio.formats import SONG_SUFFIXES
from songcast.audio.reading import open_song
from songcast.audio.songs import Song, SongWarning, read_song, write_song
from songcast.errors import AudioError

FULL = np.iinfo(np.int16)
ENCODERS = {
    **{".mp3": "libmp3lame", ".opus": "libopus", ".m4a": "aac", ".m4b": "aac", ".mp4": "aac"},
    **{".aac": "aac", ".wma": "wmav2", ".mka": "libmp3lame", ".mkv": "aac", ".webm": "libopus"},
    **{".mov": "alac", ".oga": "flac"},
}
BY_LIBSNDFILE = {
    **{".wav": "WAV", ".wave": "WAV", ".w64": "W64", ".rf64": "RF64", ".aiff": "AIFF"},
    **{".aif": "AIFF", ".aifc": "AIFF", ".au": "AU", ".snd": "AU", ".caf": "CAF"},
    **{".flac": "FLAC"},
}


def encoded(path, samples, rate=48000):
    """Write ``samples`` to ``path`` in the format of its suffix, not by songcast."""
    suffix = path.suffix
    if suffix == ".ogg":
        write_song(Song(samples=samples, sample_rate_hz=rate, name="song"), path)
    elif suffix in BY_LIBSNDFILE:
        soundfile.write(path, samples, rate, "PCM_16", format=BY_LIBSNDFILE[suffix])
    else:
        encode(path, samples, rate, ENCODERS[suffix])
    return path


def refusal(path):
    with pytest.raises(AudioError) as caught:
        read_song(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: "), message
    assert "; " in message
    return message


def test_songs_are_compared_by_identity_report_their_size_and_are_immutable(make_song):
    one, other = make_song(50), make_song(50)
    assert len({one, one, other}) == 2
    song = make_song(11025, 2, 44100)
    assert (song.frames, song.channels, song.seconds) == (11025, 2, 0.25)
    assert_sealed(song)


def test_every_suffix_is_read_in_blocks_at_its_rate_and_by_content(tmp_path):
    """Each file carries a wrong suffix; lossy formats keep the sound in place."""
    song = music(150_000, rate=48000)
    for suffix in SONG_SUFFIXES:
        path = encoded(tmp_path / f"song{suffix}", song)
        path = path.rename(tmp_path / ("x.wav" if suffix != ".wav" else "x.mp3"))
        with open_song(path) as reader:
            blocks = list(reader.blocks())
        assert (reader.sample_rate_hz, reader.channels, reader.damage) == (48000, 2, ""), suffix
        assert all(len(block) <= 65536 and block.dtype == np.int16 for block in blocks)
        result = np.concatenate(blocks)
        np.testing.assert_array_equal(result, read_song(path).samples)
        if suffix in BY_LIBSNDFILE or suffix in (".mov", ".oga"):
            np.testing.assert_array_equal(result, song, suffix)
            continue
        assert len(song) - 2048 <= len(result) <= len(song) + 4608, suffix
        part = result[9000:90000]
        delay = 9000 - place_of(part, song)
        # Bare AAC, WMA and Matroska do not state the delay of an AAC, WMA or mp3 encoder.
        assert delay <= 0 or suffix in (".aac", ".mkv", ".mka", ".wma"), suffix
        assert abs(delay) <= 2048, suffix
        error = part.astype(float) - song[9000 - delay : 90000 - delay]
        assert np.std(error) < 0.2 * np.std(song), suffix


def test_the_end_of_a_song_can_be_read_alone(tmp_path, make_song):
    song = make_song(200_000, 2, 8000)
    write_song(song, tmp_path / "a.wav")
    for seconds in (0.001, 1.0, 8.192, 9.0, 24.0, 25.0, 100.0):
        frames = min(round(8000 * seconds), song.frames)
        end = read_song(tmp_path / "a.wav", seconds)
        np.testing.assert_array_equal(end.samples, song.samples[song.frames - frames :])


def test_pcm_of_every_depth_and_container_is_exact(tmp_path):
    song = music(5000)
    path = tmp_path / "song"
    for container, endian in [
        *[("WAV", "FILE"), ("WAV", "BIG"), ("WAVEX", "FILE"), ("RF64", "FILE"), ("W64", "FILE")],
        *[("AIFF", "FILE"), ("AIFF", "LITTLE"), ("AU", "FILE"), ("AU", "LITTLE")],
        *[("CAF", "FILE"), ("CAF", "LITTLE"), ("FLAC", "FILE")],
    ]:
        for subtype in ("PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"):
            if not soundfile.check_format(container, subtype, endian):
                continue
            for channels in (1, 2):
                samples = song[:, :channels] / 32768.0
                soundfile.write(path, samples, 22050, subtype, endian, container)
                result = read_song(path)
                np.testing.assert_array_equal(result.samples, song[:, :channels], container)
                assert result.sample_rate_hz == 22050
    for rate in (8000, 96000, 192000):
        path.write_bytes(wav_bytes(song, rate))
        assert read_song(path).sample_rate_hz == rate
    path.write_bytes(wav_bytes(np.arange(256, dtype=np.uint8)[:, None]))
    np.testing.assert_array_equal(read_song(path).samples[:, 0], (np.arange(256) - 128) * 256)


def test_deep_integers_are_rounded_in_wav_and_flac_of_4_to_32_bits(tmp_path):
    path = tmp_path / "song"
    for bits in (4, 8, 12, 16, 20, 24, 32):
        top, step = 2 ** (bits - 1), 2.0 ** (bits - 16)
        x = np.random.default_rng(0).integers(-top, top, (5000, 2))
        x[:3] = [[top - 1, -top], [0, -1], [min(top - 1, int(step) // 2), -(int(step) // 2)]]
        expected = np.minimum(np.floor(x / step + 0.5), FULL.max)
        for states_length in (True, False):
            path.write_bytes(flac_bytes(x, bits, states_length=states_length))
            np.testing.assert_array_equal(read_song(path).samples, expected, str(bits))
    x = np.random.default_rng(1).integers(-(2**31), 2**31, (999, 2)).astype("<i4")
    expected = np.minimum(np.floor(x / 2**16 + 0.5), FULL.max)
    for valid_bits in (None, 32, 24, 20):  # FFmpeg takes 24 of 32 bits for floats
        path.write_bytes(wav_bytes(x, valid_bits=valid_bits))
        np.testing.assert_array_equal(read_song(path).samples, expected)


def test_floats_beyond_full_scale_are_clipped_with_one_warning_at_the_callers_line(tmp_path):
    path = tmp_path / "loud.wav"
    path.write_bytes(wav_bytes(np.array([[1.5, -3.0], [0.25, 1.0]], "<f4")))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        song = read_song(path)
    np.testing.assert_array_equal(song.samples, [[FULL.max, FULL.min], [8192, FULL.max]])
    (warning,) = caught
    assert warning.filename == __file__
    assert warning.category is SongWarning
    assert str(warning.message) == f"{path}: 2 samples beyond full scale were clipped"


def test_lossy_decoders_overshoot_without_a_warning(tmp_path):
    square = np.where(np.arange(20000) // 50 % 2, FULL.max, FULL.min).astype(np.int16)
    for suffix in (".mp3", ".ogg"):
        result = read_song(encoded(tmp_path / f"a{suffix}", square[:, None], 44100)).samples
        assert (result.min(), result.max()) == (FULL.min, FULL.max)
        assert np.mean(np.sign(result[:20000, 0]) == np.sign(square)) > 0.9  # clipped, not wrapped


def test_any_file_name_works(tmp_path, monkeypatch, chord):
    monkeypatch.chdir(tmp_path)
    names = ["Für Élise (日本)", "-o a b", "-", "50%d: take", "latin-\udce9", "a\nb", "http://x"]
    for suffix in (".wav", ".m4a", ""):
        for name in names:
            source = encoded(tmp_path / f"source{suffix or '.flac'}", chord.samples, 44100)
            target = Path(f"{name}{suffix}".replace("/", "|"))
            source.rename(target)
            song = read_song(target)
            assert song.frames >= chord.frames
            assert song.name.isprintable()


def test_what_is_no_song_is_refused_in_one_line_without_other_output(tmp_path, capfd):
    playlist = b"#EXTM3U\n#EXTINF:1,x\nfile:///etc/passwd\n"
    silent_video = tmp_path / "silent.mp4"
    import av

    with av.open(str(silent_video), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 16
        container.mux(stream.encode(av.VideoFrame(16, 16, "yuv420p")))
        container.mux(stream.encode(None))
    capfd.readouterr()
    contents = {
        b"": "the file is empty (0 bytes); copy or download it again",
        b"these are words, no sounds\n" * 4000: "is text, not supported audio; songcast reads wav",
        playlist: "is text, not supported audio",
        b"ffconcat version 1.0\nfile /etc/passwd\n": "is text, not supported audio",
        b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 99: "is a file of another kind, not supported",
        b"MThd\0\0\0\6\0\1\0\1\0\x60MTrk" + bytes(400): "is a file of another kind",
        b"PK\3\4" + bytes(3000): "is a file of another kind",
        b"RIFF\x24\0\0\0WAVEfmt ": "is damaged, it cannot be decoded",
        wav_bytes(np.zeros((0, 2), np.int16)): "is damaged, it cannot be decoded",
        silent_video.read_bytes(): "has no audio stream; use a file with sound",
        b"ID3\4\0\0\0\0\7\x76" + bytes(1014): "is damaged, it cannot be decoded",
    }
    for suffix in (".wav", ".mp3", ".ogg", ".m4a", ""):
        for content, reason in contents.items():
            path = tmp_path / f"a{suffix}"
            path.write_bytes(content)
            assert reason in refusal(path), reason
    assert capfd.readouterr() == ("", "")


def test_missing_files_folders_pipes_and_unreadable_files_are_refused(tmp_path, monkeypatch):
    assert "there is no such file; check the name" in refusal(tmp_path / "none.wav")
    assert "is a folder" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe.wav")
    assert "not a regular file" in refusal(tmp_path / "pipe.wav")
    assert "cannot be read (File name too long)" in refusal(tmp_path / ("x" * 300))
    path = encoded(tmp_path / "a.wav", music(50))

    def denied(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    assert "cannot be read (Permission denied)" in refusal(path)


def test_nan_and_infinity_are_refused_with_their_position(tmp_path):
    path = tmp_path / "a.wav"
    for bad in (np.nan, np.inf, -np.inf):
        x = np.zeros((88200, 2), "<f4")
        x[66150, 1] = bad
        path.write_bytes(wav_bytes(x))
        assert "NaN or infinite samples, the first at 1.500 s" in refusal(path)


def test_six_channels_are_refused_before_decoding(tmp_path, make_song):
    samples = make_song(2000, 6).samples
    for suffix in (".wav", ".flac", ".ogg"):
        soundfile.write(tmp_path / f"a{suffix}", samples, 44100)
        with (
            pytest.raises(AudioError, match="has 6 channels, songcast reads mono and stereo"),
            open_song(tmp_path / f"a{suffix}"),
        ):
            pass


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_damage_gives_a_song_or_one_line(tmp_path_factory, all_formats, data):
    suffix = data.draw(st.sampled_from(sorted(all_formats)))
    content = bytearray(all_formats[suffix])
    for _ in range(data.draw(st.integers(1, 20))):
        place = data.draw(st.integers(0, len(content) - 1) | st.integers(0, 200))
        content[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / f"a{suffix}"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SongWarning)
        try:
            song = read_song(path)
        except AudioError as error:
            assert "\n" not in str(error)
        else:
            assert song.samples.dtype == np.int16
            assert song.frames > 0


@pytest.fixture(scope="module")
def all_formats(tmp_path_factory):
    folder = tmp_path_factory.mktemp("formats")
    noise = np.random.default_rng(0).integers(-9000, 9000, (3000, 2)).astype(np.int16)
    return {s: encoded(folder / f"a{s}", noise).read_bytes() for s in SONG_SUFFIXES}


@pytest.mark.slow
def test_memory_does_not_grow_with_the_song(tmp_path):
    """Decoding 20 minutes takes no more memory than decoding a minute, by either library."""
    import subprocess
    import sys

    def peak_mb(path):
        script = (
            "import resource, sys\n"
            "from songcast.audio.reading import open_song\n"
            "from songcast.audio.conversion import resampled\n"
            "with open_song(sys.argv[1]) as r:\n"
            "    for b in resampled(r.blocks(), r.sample_rate_hz, 48000, 2): pass\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
        )
        return int(subprocess.check_output([sys.executable, "-c", script, path])) / 1024

    minute = np.tile(music(44100), (60, 1))
    for suffix in (".wav", ".mp3"):
        short = encoded(tmp_path / f"1{suffix}", minute, 44100)
        long = encoded(tmp_path / f"20{suffix}", np.tile(minute, (20, 1)), 44100)
        assert peak_mb(long) < peak_mb(short) + 20

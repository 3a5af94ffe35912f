"""Reading and writing songs. Oracles: the stdlib's wave, hand-made headers, ffmpeg, scipy."""

import os
import struct
import subprocess
import sys
import tempfile
import warnings
import wave
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import resample_poly

from helpers.records import assert_sealed
from songcast.audio import songs
from songcast.audio.ffmpeg import _ENCODERS
from songcast.audio.resampling import resampled
from songcast.audio.songs import (
    SONG_SUFFIXES,
    Song,
    SongWarning,
    check_writable,
    open_song,
    read_song,
    write_song,
)
from songcast.errors import AudioError

FULL = np.iinfo(np.int16)


def write_wav(path, samples, rate=44100, bits=16):
    """Integers (frames, channels) by the stdlib, little-endian; 8 bit is unsigned."""
    width = bits // 8
    data = samples.astype("<i8" if bits != 8 else "u1")
    raw = data[..., None].view("u1")[..., :width].tobytes()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(raw)
    return path


def wav_bytes(samples, rate, tag, extensible=False):
    """A wav by hand: format tag 1 (integer) or 3 (float), plain or extensible."""
    channels, width = samples.shape[1], samples.dtype.itemsize
    base = (channels, rate, rate * channels * width, channels * width, 8 * width)
    if extensible:
        guid = struct.pack("<H", tag) + bytes.fromhex("000000001000800000aa00389b71")
        fmt = struct.pack("<HHIIHHHHI", 0xFFFE, *base, 22, 8 * width, 0) + guid
    else:
        fmt = struct.pack("<HHIIHH", tag, *base)
    data = samples.tobytes()
    body = b"WAVE" + b"fmt " + struct.pack("<I", len(fmt)) + fmt
    body += b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def ffmpeg(*arguments, stdout=None):
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *map(str, arguments)]
    return subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=stdout).stdout


def song_of(samples, rate=44100):
    return Song(samples=np.asarray(samples, np.int16), sample_rate_hz=rate, name="test")


def encoded(folder, song, suffix):
    """The song in any readable format: by us where we write it, else by ffmpeg."""
    path = folder / f"song{suffix}"
    if suffix in (".wav", ".flac", ".mp3", ".ogg", ".m4a"):
        write_song(song, path)
    else:
        write_song(song, folder / "source.wav")
        ffmpeg("-i", folder / "source.wav", path)
    return path


def snr_db(song, heard):
    """Signal to noise at the best alignment within one codec frame."""
    x, y = (s.samples.astype(float)[:, -1] for s in (song, heard))
    x = x[2000:8000]
    errors = [np.sum((y[2000 + d : 8000 + d] - x) ** 2) for d in range(-1999, 2000)]
    return 10 * np.log10(np.sum(x**2) / min(errors))


def test_a_song_is_equal_to_itself_alone(make_song):
    one, other = make_song(50), make_song(50)
    assert one == one
    assert one != other
    assert len({one, other}) == 2


def test_a_song_tells_its_size_and_is_sealed(make_song):
    song = make_song(11025, 2, 44100)
    assert (song.frames, song.channels, song.seconds) == (11025, 2, 0.25)
    assert_sealed(song)


# Reading: exactness.


@pytest.mark.parametrize("rate", [8000, 11025, 44100, 96000, 192000])
@pytest.mark.parametrize("channels", [1, 2])
def test_16_bit_wav_is_read_bit_for_bit(tmp_path, make_song, rate, channels):
    song = make_song(3000, channels, rate)
    heard = read_song(write_wav(tmp_path / "a.wav", song.samples, rate))
    assert heard.samples.dtype == np.int16
    np.testing.assert_array_equal(heard.samples, song.samples)
    assert (heard.sample_rate_hz, heard.channels, heard.name) == (rate, channels, "a.wav")


@pytest.mark.parametrize("bits", [24, 32])
def test_deeper_integers_are_rounded_to_the_nearest_level(tmp_path, bits):
    top = 2 ** (bits - 1)
    step = 2 ** (bits - 16)
    edges = [0, 1, step // 2 - 1, step // 2, -step // 2, -step // 2 - 1, step, top - 1, -top]
    random = np.random.default_rng(0).integers(-top, top, 1991)
    x = np.concatenate([edges, random]).reshape(-1, 2)
    heard = read_song(write_wav(tmp_path / "a.wav", x, bits=bits)).samples
    np.testing.assert_array_equal(heard, np.minimum(np.floor(x / step + 0.5), FULL.max))


def test_8_bit_wav_is_scaled_exactly(tmp_path):
    x = np.arange(256).reshape(-1, 1)
    heard = read_song(write_wav(tmp_path / "a.wav", x, bits=8)).samples
    np.testing.assert_array_equal(heard, (x - 128) * 256)


@pytest.mark.parametrize("extensible", [False, True])
@pytest.mark.parametrize("dtype", ["<f4", "<f8"])
def test_float_wav_is_rounded_and_full_scale_does_not_warn(tmp_path, dtype, extensible):
    x = np.random.default_rng(0).uniform(-1, 1, (1000, 2)).astype(dtype)
    x[:2] = [[1.0, -1.0], [0.5, 2**-16]]
    path = tmp_path / "a.wav"
    path.write_bytes(wav_bytes(x, 44100, 3, extensible))
    expected = np.clip(np.rint(x.astype(float) * 32768), FULL.min, FULL.max)
    np.testing.assert_array_equal(read_song(path).samples, expected)


def test_extensible_integer_wav_is_exact(tmp_path, chord):
    (tmp_path / "a.wav").write_bytes(wav_bytes(chord.samples, 44100, 1, extensible=True))
    np.testing.assert_array_equal(read_song(tmp_path / "a.wav").samples, chord.samples)


def test_float_beyond_full_scale_is_clipped_with_a_warning_that_names_the_file(tmp_path):
    path = tmp_path / "loud.wav"
    path.write_bytes(wav_bytes(np.array([[1.5, -3.0], [0.25, 0.0]], "<f4"), 44100, 3))
    with pytest.warns(SongWarning, match=r"loud\.wav: 2 samples beyond full scale"):
        song = read_song(path)
    np.testing.assert_array_equal(song.samples, [[FULL.max, FULL.min], [8192, 0]])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_song(path)
    assert [warning.filename for warning in caught] == [__file__]  # the caller's line, not ours


@pytest.mark.parametrize("suffix", [".mp3", ".ogg"])
def test_lossy_decoders_overshoot_in_silence(tmp_path, suffix):
    square = np.where(np.arange(20000) // 50 % 2, FULL.max, FULL.min).reshape(-1, 1)
    path = encoded(tmp_path, song_of(square), suffix)
    heard = read_song(path).samples  # a warning would be an error here
    assert (heard.min(), heard.max()) == (FULL.min, FULL.max)
    assert np.mean(np.sign(heard) == np.sign(square)) > 0.9  # clipped, not wrapped around


def test_flac_is_lossless_also_when_its_length_is_unknown(tmp_path, chord):
    write_song(chord, tmp_path / "a.wav")
    for extra in ([], ["-sample_fmt", "s32"]):
        piped = ffmpeg("-i", tmp_path / "a.wav", *extra, "-f", "flac", "-", stdout=-1)
        (tmp_path / "piped.flac").write_bytes(piped)
        ffmpeg("-i", tmp_path / "a.wav", *extra, tmp_path / "whole.flac")
        for name in ("piped.flac", "whole.flac"):
            np.testing.assert_array_equal(read_song(tmp_path / name).samples, chord.samples)
    with open_song(tmp_path / "piped.flac") as reader:
        assert reader.frames is None


def test_wav_from_a_pipe_is_read_to_its_end(tmp_path, chord):
    write_song(chord, tmp_path / "a.wav")
    piped = ffmpeg("-i", tmp_path / "a.wav", "-f", "wav", "-", stdout=-1)
    assert b"data\xff\xff\xff\xff" in piped
    (tmp_path / "b.wav").write_bytes(piped)
    np.testing.assert_array_equal(read_song(tmp_path / "b.wav").samples, chord.samples)


@pytest.mark.parametrize("suffix", [".mp3", ".ogg", ".m4a", ".aac", ".opus"])
@pytest.mark.parametrize("channels", [1, 2])
def test_lossy_formats_keep_rate_channels_length_and_sound(tmp_path, make_song, suffix, channels):
    song = make_song(12000, channels, 48000 if suffix == ".opus" else 44100)
    heard = read_song(encoded(tmp_path, song, suffix))
    assert (heard.sample_rate_hz, heard.channels) == (song.sample_rate_hz, channels)
    if suffix != ".aac":  # bare aac has no field for the encoder's delay
        assert heard.frames == song.frames
    assert snr_db(song, heard) > 15


@pytest.mark.parametrize("encoder", [["-q:a", "0"], ["-b:a", "128k"]])
def test_mp3_without_a_length_header_is_read_whole(tmp_path, make_song, encoder):
    """libsndfile guesses the length of these and drops the rest."""
    silence_then_sound = np.concatenate([np.zeros((88200, 2)), make_song(44100).samples])
    write_song(song_of(silence_then_sound), tmp_path / "a.wav")
    ffmpeg("-i", tmp_path / "a.wav", *encoder, "-write_xing", "0", tmp_path / "a.mp3")
    heard = read_song(tmp_path / "a.mp3")
    assert 132300 <= heard.frames <= 132300 + 3 * 1152
    assert np.abs(heard.samples[-8000:-4000]).max() > 4000


def test_mp3_with_tags_around_it_is_read(tmp_path, chord):
    plain = encoded(tmp_path, chord, ".mp3").read_bytes()
    picture = b"ID3\x04\0\0\0\0\x10\0" + b"\xff\xd8\xff\xe0" * 512
    (tmp_path / "tagged.mp3").write_bytes(picture + plain + b"TAG" + bytes(125))
    heard = read_song(tmp_path / "tagged.mp3").samples
    np.testing.assert_array_equal(heard, read_song(tmp_path / "song.mp3").samples)


@pytest.mark.parametrize("suffix", SONG_SUFFIXES)
def test_blocks_are_the_whole_song_and_content_counts_more_than_the_suffix(
    tmp_path, make_song, suffix
):
    song = make_song(150000, 2, 48000)
    path = encoded(tmp_path, song, suffix)
    disguised = path.rename(tmp_path / ("x.wav" if suffix != ".wav" else "x.mp3"))
    with open_song(disguised) as reader:
        blocks = list(reader.blocks())
    assert len(blocks) == 3
    assert all(len(b) <= 65536 and b.dtype == np.int16 for b in blocks)
    np.testing.assert_array_equal(np.concatenate(blocks), read_song(disguised).samples)


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros((5000, 2)),
        np.full((5000, 1), -1234),
        np.full((1, 1), 77),
        np.full((1, 2), FULL.min),
        np.where(np.arange(5000) // 50 % 2, FULL.max, FULL.min).reshape(-1, 1),
    ],
    ids=["silence", "DC", "one sample", "one frame", "full-scale square"],
)
@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_extreme_songs_survive_a_round_trip(tmp_path, samples, suffix):
    song = song_of(samples)
    write_song(song, tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(read_song(tmp_path / f"a{suffix}").samples, song.samples)


@pytest.mark.parametrize(
    "name",
    [
        "Für Élise (日本).wav",
        "-o a b.wav",
        "-.wav",
        "50%d: take.wav",
        b"latin-\xe9.wav",
        "a\nb.wav",
    ],
)
@pytest.mark.parametrize("kind", [".wav", ".m4a"])
def test_any_file_name_works(tmp_path, monkeypatch, chord, name, kind):
    monkeypatch.chdir(tmp_path)
    encoded(tmp_path, chord, kind).rename(os.fsdecode(name))
    song = read_song(os.fsdecode(name))
    assert song.frames == chord.frames
    assert song.name.isprintable()


def test_a_song_called_dash_is_not_the_standard_input(tmp_path, monkeypatch, chord):
    monkeypatch.chdir(tmp_path)
    encoded(tmp_path, chord, ".wav").rename("-")
    np.testing.assert_array_equal(read_song("-").samples, chord.samples)


# Reading: refusals. Each is one line: the path, what is wrong, what to do.


def refusal(path):
    with pytest.raises(AudioError) as caught:
        read_song(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: "), message
    assert "; " in message
    return message


@pytest.mark.parametrize("suffix", SONG_SUFFIXES)
@pytest.mark.parametrize("part", [0.001, 0.3, 0.9, 0.995])
def test_truncated_songs_are_refused(tmp_path, capfd, make_song, suffix, part):
    # Noise, so that every byte carries sound.
    noise = np.random.default_rng(0).integers(-9000, 9000, (60000, 2))
    path = encoded(tmp_path, song_of(noise, 48000), suffix)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    message = refusal(path)
    assert part == 0.001 or "truncated" in message or "damaged" in message
    assert capfd.readouterr() == ("", "")


def test_mp3_one_byte_short_is_refused(tmp_path, chord):
    path = encoded(tmp_path, chord, ".mp3")
    path.write_bytes(path.read_bytes()[:-1])
    assert "truncated" in refusal(path)


def test_mp3_with_a_hole_is_refused(tmp_path, make_song):
    path = encoded(tmp_path, make_song(100000), ".mp3")
    data = bytearray(path.read_bytes())
    data[8000:16000] = bytes(8000)
    path.write_bytes(data)
    assert "damaged" in refusal(path)


@pytest.mark.parametrize("suffix", SONG_SUFFIXES)
@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty (0 bytes)"),
        (b"these are words, no sounds\n" * 4000, "is text, not a song"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "truncated before any sample"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 99, "not a known format"),
        (b"\xff\xfe" + "utf-16 words".encode("utf-16-le") * 99, "not a known format"),
    ],
    ids=["empty", "text", "header", "png", "utf-16"],
)
def test_what_is_not_a_song_is_refused_quietly(tmp_path, capfd, suffix, data, said):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data)
    assert said in refusal(path)
    assert capfd.readouterr() == ("", "")  # decoders' own chatter never reaches the user


@pytest.mark.parametrize("suffix", [".m4a", ".aac", ".flac", ".ogg", ".mp3"])
def test_a_header_followed_by_noise_is_refused(tmp_path, capfd, chord, suffix):
    path = encoded(tmp_path, chord, suffix)
    head = path.read_bytes()[:48]
    path.write_bytes(head + np.random.default_rng(1).bytes(5000))
    refusal(path)
    assert capfd.readouterr() == ("", "")


def test_missing_folder_and_pipe_are_refused(tmp_path):
    assert "there is no such file; check the name" in refusal(tmp_path / "none.wav")
    assert "is a folder" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe.wav")
    assert "not a regular file" in refusal(tmp_path / "pipe.wav")
    assert "cannot be read (File name too long)" in refusal(tmp_path / ("x" * 300))


def test_unreadable_file_is_refused(tmp_path, monkeypatch, chord):
    path = encoded(tmp_path, chord, ".wav")

    def denied(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    assert "cannot be read (Permission denied)" in refusal(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused_with_their_place(tmp_path, bad):
    x = np.zeros((44100, 2), "<f4")
    x[22050, 1] = bad
    (tmp_path / "a.wav").write_bytes(wav_bytes(x, 44100, 3))
    assert "NaN or infinite samples, the first at 0.500 s" in refusal(tmp_path / "a.wav")


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".m4a"])
def test_six_channels_are_refused_before_decoding(tmp_path, make_song, suffix):
    path = encoded(tmp_path, make_song(2000, 6), suffix)
    assert "6 channels, where songcast takes mono and stereo; mix it down" in refusal(path)


def test_no_frames_are_refused(tmp_path):
    path = write_wav(tmp_path / "a.wav", np.zeros((0, 2), int))
    assert "holds no samples" in refusal(path)


def test_video_without_sound_is_refused(tmp_path):
    path = tmp_path / "a.m4a"
    ffmpeg("-f", "lavfi", "-i", "color=size=16x16:duration=0.1", "-f", "mp4", path)
    assert "cannot be decoded" in refusal(path)


@settings(max_examples=60)
@given(data=st.data())
def test_any_damage_gives_a_song_or_one_line(tmp_path_factory, make_song_bytes, data):
    suffix = data.draw(st.sampled_from(sorted(make_song_bytes)))
    content = bytearray(make_song_bytes[suffix])
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
def make_song_bytes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("formats")
    noise = np.random.default_rng(0).integers(-9000, 9000, (3000, 2))
    suffixes = (".wav", ".flac", ".ogg", ".mp3", ".m4a")
    return {s: encoded(folder, song_of(noise), s).read_bytes() for s in suffixes}


# Resampling.


def whole(samples, from_hz, to_hz):
    return np.concatenate(list(resampled([samples], from_hz, to_hz, samples.shape[1])))


@given(lengths=st.lists(st.integers(0, 400), min_size=1, max_size=12), to=st.integers(0, 3))
@settings(max_examples=40)
def test_resampling_in_a_stream_is_resampling_the_whole(make_song, lengths, to):
    to_hz = (44100, 22050, 48000, 8000)[to]
    samples = make_song(sum(lengths)).samples
    blocks = np.split(samples, np.cumsum(lengths)[:-1])
    streamed = np.concatenate(list(resampled(blocks, 44100, to_hz, 2)))
    np.testing.assert_array_equal(streamed, whole(samples, 44100, to_hz))
    assert abs(len(streamed) - len(samples) * to_hz / 44100) <= 0.5


@pytest.mark.parametrize(("from_hz", "to_hz"), [(48000, 44100), (44100, 96000), (96000, 44100)])
def test_a_tone_keeps_its_pitch_level_and_phase(from_hz, to_hz):
    def tone(rate):
        return 20000 * np.sin(2 * np.pi * 1000 * np.arange(rate) / rate + 0.3)

    heard = whole(np.rint(tone(from_hz)).astype(np.int16)[:, None], from_hz, to_hz)[:, 0]
    middle = slice(to_hz // 10, -to_hz // 10)
    assert len(heard) == to_hz
    assert np.abs(heard - tone(to_hz))[middle].max() < 2  # LSB


def test_a_tone_above_nyquist_vanishes():
    samples = 30000 * np.sin(2 * np.pi * 30000 * np.arange(96000) / 96000)
    heard = whole(np.rint(samples).astype(np.int16)[:, None], 96000, 44100)[4410:-4410]
    residue = np.sqrt(np.mean(heard.astype(float) ** 2))
    assert 20 * np.log10(max(residue, 1e-9) / (30000 / np.sqrt(2))) < -90


def test_resampling_agrees_with_scipy_on_music(make_song):
    x = make_song(20000, 1, 48000).samples
    smooth = np.rint(resample_poly(x, 1, 8, axis=0)).astype(np.int16)  # band-limited at will
    wide = whole(smooth, 6000, 12000)[:, 0]
    reference = resample_poly(smooth.astype(float), 2, 1, axis=0, window=("kaiser", 12.0))[:, 0]
    inner = slice(200, -200)
    assert np.std((wide - reference)[inner]) < 0.02 * np.std(reference[inner])


def test_resampling_clips_and_does_not_wrap():
    square = np.where(np.arange(4800) // 50 % 2, FULL.max, FULL.min).astype(np.int16)
    heard = whole(square[:, None], 48000, 44100)[:, 0]
    expected = square[(np.arange(len(heard)) * 48000 / 44100).astype(int)]
    assert np.mean(np.sign(heard) == np.sign(expected)) > 0.98


def test_equal_rates_pass_bit_for_bit(chord):
    np.testing.assert_array_equal(whole(chord.samples, 44100, 44100), chord.samples)


# Writing.


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".WAV"])
@pytest.mark.parametrize(("channels", "rate"), [(1, 8000), (2, 44100), (2, 96000)])
def test_wav_and_flac_are_written_without_loss(tmp_path, make_song, suffix, channels, rate):
    song = make_song(70000, channels, rate)
    write_song(song, tmp_path / f"a{suffix}")
    heard = read_song(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(heard.samples, song.samples)
    assert heard.sample_rate_hz == rate


def test_written_wav_is_what_the_standard_library_reads(tmp_path, chord):
    write_song(chord, tmp_path / "a.wav")
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert (file.getframerate(), file.getsampwidth(), file.getnchannels()) == (44100, 2, 2)
        assert file.readframes(10**6) == chord.samples.astype("<i2").tobytes()


def test_a_view_of_a_song_can_be_written(tmp_path, chord):
    view = song_of(chord.samples)
    object.__setattr__(view, "samples", chord.samples[::-2])
    write_song(view, tmp_path / "a.wav")
    np.testing.assert_array_equal(read_song(tmp_path / "a.wav").samples, chord.samples[::-2])


@pytest.mark.parametrize(
    ("suffix", "rate", "written"),
    [
        *[(".mp3", 96000, 48000), (".mp3", 44000, 44100), (".mp3", 4000, 8000)],
        *[(".m4a", 96000, 96000), (".m4a", 44000, 44100), (".m4a", 4000, 7350)],
    ],
)
def test_a_rate_that_the_format_lacks_is_resampled(tmp_path, make_song, suffix, rate, written):
    write_song(make_song(rate, 1, rate), tmp_path / f"a{suffix}")
    heard = read_song(tmp_path / f"a{suffix}")
    assert (heard.sample_rate_hz, heard.frames) == (written, written)


@pytest.mark.parametrize("suffix", [".mp3", ".m4a", ".ogg"])
def test_both_channels_of_a_lossy_song_are_their_own(tmp_path, make_song, suffix):
    """libsndfile wrote stereo mp3 from int16 as noise; here left and right are unlike tones."""
    seconds = np.arange(20000)[:, None] / 44100
    tones = 9000 * np.sin(2 * np.pi * np.array([[440.0, 1000.0]]) * seconds)
    song = song_of(np.rint(tones))
    write_song(song, tmp_path / f"a{suffix}")
    heard = read_song(tmp_path / f"a{suffix}").samples.astype(float)[4000:16000]
    expected = song.samples.astype(float)[4000:16000]
    for channel in (0, 1):
        alike = np.corrcoef(expected[:, channel], heard[:, channel])[0, 1]
        crossed = np.corrcoef(expected[:, channel], heard[:, 1 - channel])[0, 1]
        assert alike > 0.99
        assert abs(crossed) < 0.05


@pytest.mark.parametrize("suffix", [".mp3", ".m4a"])
def test_lossy_writing_leaves_no_temporary_file_also_when_it_fails(
    tmp_path, monkeypatch, chord, suffix
):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    write_song(chord, tmp_path / f"good{suffix}")
    monkeypatch.setitem(_ENCODERS, suffix, ("mp3", ["-c:a", "no_such_encoder"]))
    with pytest.raises(AudioError, match=r"cannot be written .*no_such_encoder.*; try \.wav"):
        write_song(chord, tmp_path / f"bad{suffix}")
    assert list(scratch.iterdir()) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"good{suffix}", "scratch"]


def test_lossy_writing_without_ffmpeg_says_what_to_install(tmp_path, monkeypatch, chord):
    def missing():
        raise RuntimeError("No ffmpeg exe could be found.")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", missing)
    with pytest.raises(AudioError, match="no ffmpeg: pip install imageio-ffmpeg"):
        write_song(chord, tmp_path / "a.mp3")


def test_check_writable_says_what_write_song_would_and_touches_nothing(tmp_path, chord):
    (tmp_path / "old.wav").write_bytes(b"old")
    (tmp_path / "folder.wav").mkdir()
    before = sorted(tmp_path.rglob("*"))
    check_writable(tmp_path / "old.wav")
    check_writable(tmp_path / "new.m4a")
    for path in ("a.xyz", "none/a.wav", "x" * 300 + ".wav", "folder.wav"):
        with pytest.raises(AudioError) as checked:
            check_writable(tmp_path / path)
        with pytest.raises(AudioError) as written:
            write_song(chord, tmp_path / path)
        assert str(checked.value) == str(written.value)
    assert (tmp_path / "old.wav").read_bytes() == b"old"
    assert sorted(tmp_path.rglob("*")) == before


def test_refusals_of_write_are_clear_and_leave_nothing(tmp_path, chord, make_song):
    (tmp_path / "folder.wav").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for path, song, said in [
        (tmp_path / "a.xyz", chord, "cannot write xyz; use one of .wav .flac .ogg .mp3 .m4a"),
        (tmp_path / "a", chord, "cannot write a file without suffix"),
        (tmp_path / "none" / "a.wav", chord, "cannot be written (No such file or directory)"),
        (tmp_path / ("x" * 300 + ".wav"), chord, "cannot be written (File name too long)"),
        (tmp_path / "folder.wav", chord, "is there and is not a file"),
        (tmp_path / "a.mp3", make_song(50, 6), "cannot be written (6 channels at 44100 Hz"),
        (tmp_path / "a.flac", make_song(50, 1, 10**6), "cannot be written (1 channels at 1000000"),
        (tmp_path / "a.wav", make_song(0), "there are no samples to write"),
    ]:
        with pytest.raises(AudioError) as caught:
            write_song(song, path)
        assert str(caught.value).startswith(f"{path}: {said}")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("suffix", [".wav", ".mp3", ".M4A"])
def test_what_a_wav_header_cannot_count_is_refused_and_flac_takes_it(tmp_path, monkeypatch, suffix):
    """A wav counts its bytes in 32 bits, and 4 KB of them are left to all but its samples."""
    monkeypatch.setattr(songs, "encode", lambda path, *song: path.write_bytes(b"written"))

    def silence(frames):  # takes no memory
        samples = np.broadcast_to(np.int16(0), (frames, 1))
        return Song(samples=samples, sample_rate_hz=44100, name="silence")

    largest = (2**32 - 4096) // 2
    write_song(silence(largest), tmp_path / f"a{suffix}")
    said = rf"the song is too long for {suffix[1:].lower()} \(4 GB\); use \.flac"
    with pytest.raises(AudioError, match=said):
        write_song(silence(largest + 1), tmp_path / f"b{suffix}")
    write_song(silence(largest + 1), tmp_path / "b.flac")
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"a{suffix}", "b.flac"]


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3", ".m4a"])
def test_a_full_disk_leaves_the_old_file(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"old")
    script = (
        "import resource, sys, numpy as np; from songcast.audio import Song, write_song\n"
        "x = np.random.default_rng(0).integers(-9000, 9000, (99999, 2)).astype(np.int16)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, -1))\n"
        "from songcast.errors import AudioError\n"
        "try: write_song(Song(samples=x, sample_rate_hz=44100, name='x'), sys.argv[1])\n"
        "except AudioError as error: print(error)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True)
    assert "cannot be written" in done.stdout, done.stderr
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_writing_replaces_a_file_at_once_and_honours_the_umask(tmp_path, chord):
    path = tmp_path / "a.wav"
    path.write_bytes(b"old")
    old = path.open("rb")
    write_song(chord, path)
    assert old.read() == b"old"  # the reader of the old file was not disturbed
    old.close()
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.slow
def test_memory_does_not_grow_with_the_song(tmp_path):
    """Decoding 20 minutes takes no more memory than decoding a minute."""

    def peak_mb(minutes):
        path = tmp_path / f"{minutes}.wav"
        header = wav_bytes(np.zeros((0, 2), "<i2"), 44100, 1)[:-4]
        size = minutes * 60 * 44100 * 4
        with path.open("wb") as file:
            file.write(header + struct.pack("<I", size))
            file.truncate(len(header) + 4 + size)  # sparse: zeros that take no disk
        script = (
            "import resource, sys\n"
            "from songcast.audio import open_song\n"
            "from songcast.resampling import resampled\n"
            "with open_song(sys.argv[1]) as r:\n"
            "    for b in resampled(r.blocks(), r.sample_rate_hz, 48000, 2): pass\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
        )
        return int(subprocess.check_output([sys.executable, "-c", script, path])) / 1024

    assert peak_mb(20) < peak_mb(1) + 20

"""Sound files of every format, valid and damaged, and an independent reader of WAV."""

import functools
import struct
import tempfile
import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from helpers.audio_files import encode, wav_bytes
from songcast.audio.songs import Song, write_song

RATE_HZ = 44100
FRAMES = 2400
LOSSY = (".mp3", ".ogg", ".m4a", ".aac", ".opus")
LOSSY_RATE_HZ, LOSSY_FRAMES = 48000, 24000


def noise(frames: int = FRAMES, channels: int = 2, peak: int = 9000) -> NDArray[np.int16]:
    rng = np.random.default_rng(frames + channels)
    return rng.integers(-peak, peak, (frames, channels)).astype(np.int16)


def pcm(path: Path, samples: NDArray[np.int16], rate_hz: int = RATE_HZ) -> None:
    """Write a 16-bit WAV with the standard library."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(samples.astype("<i2").tobytes())


def read_pcm(file: Path) -> tuple[NDArray[np.int16], int]:
    """Return the samples and rate of a 16-bit WAV, read with the standard library."""
    with wave.open(str(file), "rb") as sound:
        assert sound.getsampwidth() == 2
        samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2")
        return samples.reshape(-1, sound.getnchannels()), sound.getframerate()


@functools.cache
def encoded(suffix: str) -> bytes:
    """Return noise at 48 kHz in the format of the suffix: 0.5 s if lossy, else 2400 frames."""
    samples = noise(LOSSY_FRAMES if suffix in LOSSY else FRAMES)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / f"a{suffix}"
        if suffix == ".aac":
            encode(path, samples, LOSSY_RATE_HZ, "aac")
        elif suffix == ".opus":  # in several pages, so that a part of it can be read
            encode(path, samples, LOSSY_RATE_HZ, "libopus", page_duration="50000")
        else:
            write_song(Song(samples=samples, sample_rate_hz=LOSSY_RATE_HZ, name="noise"), path)
        return path.read_bytes()


def cut(suffix: str, part: float) -> bytes:
    """Return the first part of a song's file."""
    whole = encoded(suffix)
    return whole[: int(len(whole) * part)]


def header_then_noise(suffix: str) -> bytes:
    """Return 48 bytes of a song's file, followed by random bytes up to its size."""
    whole = wav_bytes(noise()) if suffix == ".wav" else encoded(suffix)
    return whole[:48] + np.random.default_rng(1).bytes(len(whole) - 48)


def huge_flac() -> bytes:
    """Return a FLAC file that declares 2^36 - 1 frames."""
    data = bytearray(encoded(".flac"))
    data[21] |= 0x0F  # STREAMINFO: 36 bits of total samples, RFC 9639 section 8.2
    data[22:26] = b"\xff\xff\xff\xff"
    return bytes(data)


def with_header(place: int, form: str, value: int) -> bytes:
    """Return a WAV with one field of its header overwritten."""
    data = bytearray(wav_bytes(noise()))
    struct.pack_into(form, data, place, value)
    return bytes(data)

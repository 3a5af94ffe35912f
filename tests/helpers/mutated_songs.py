"""Audio files with random byte errors, for the tests of the decoder and the server."""

import itertools
import subprocess
from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg
import numpy as np

from songcast.audio.songs import Song, write_song

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".m4a")


def short_songs(folder: Path) -> dict[str, bytes]:
    """Return 4000 frames of noise in stereo as a file of each format, by suffix."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 3000, (4000, 2)).astype(np.int16)
    song = Song(samples=noise, sample_rate_hz=44100, name="noise")
    for suffix in SUFFIXES[:-1]:
        write_song(song, folder / f"song{suffix}")
    encode = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-i", folder / "song.wav"]
    subprocess.run([*encode, folder / "song.m4a"], check=True)
    return {suffix: (folder / f"song{suffix}").read_bytes() for suffix in SUFFIXES}


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """Return ``content`` with changed, removed, repeated and new bytes, mostly near the start."""
    result = bytearray(content)
    for _ in range(int(rng.integers(1, 12))):
        at = int(len(result) * rng.random() ** 4) if result else 0
        size = int(rng.integers(1, 9))
        kind = rng.integers(4)
        if kind == 0 and result:
            result[at % len(result)] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            result[at : at + size] = rng.bytes(size)
        elif kind == 2:
            del result[at : at + size * 10]
        else:
            result[at:at] = result[at : at + size * 20]
    return bytes(result)


def mutated_songs(songs: dict[str, bytes], seed: int) -> Iterator[bytes]:
    """Yield mutations of the songs in turn, endlessly; the same for the same ``seed``."""
    rng = np.random.default_rng(seed)
    for content in itertools.cycle(songs.values()):
        yield mutate(content, rng)

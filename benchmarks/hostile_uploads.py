"""Songs with broken bytes, for what must survive them: the decoder, the server, its soak."""

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


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """Return ``content`` with flipped, dropped, doubled and foreign bytes, mostly near its head."""
    found = bytearray(content)
    for _ in range(int(rng.integers(1, 12))):
        at = int(len(found) * rng.random() ** 4) if found else 0
        size = int(rng.integers(1, 9))
        kind = rng.integers(4)
        if kind == 0 and found:
            found[at % len(found)] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            found[at : at + size] = rng.bytes(size)
        elif kind == 2:
            del found[at : at + size * 10]
        else:
            found[at:at] = found[at : at + size * 20]
    return bytes(found)


def uploads(songs: dict[str, bytes], seed: int) -> Iterator[bytes]:
    """Yield mutations of the songs in turn, without end; equal seeds, equal bytes."""
    rng = np.random.default_rng(seed)
    for content in itertools.cycle(songs.values()):
        yield mutated(content, rng)

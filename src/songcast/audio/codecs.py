"""Songs as int16 blocks, read and written; the only importer of soundfile.

wav, flac and ogg are decoded by libsndfile; mp3, m4a, aac, and a flac that does not know its
length, by ffmpeg. (libsndfile guesses the length of an mp3 without a Xing header and drops what
lies beyond its guess, and libmpg123 writes to the terminal.) wav, flac and ogg are encoded by
libsndfile in a stream; mp3 and m4a by ffmpeg.

To int16: 16-bit samples are exact. 8-bit and companded samples are exact multiples of what they
were. 24- and 32-bit integers are rounded to the nearest of 2^16 levels, halves up. Floats are
multiplied by 32768 and rounded, halves to even. All are limited to [-32768, 32767].
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from songcast.audio import ffmpeg
from songcast.audio.formats import (
    COPY_AGAIN,
    TRUNCATED,
    Container,
    audio_error,
    inspect,
    undecodable,
)

Samples = NDArray[np.int16]

BLOCK_FRAMES = 65536
MAX_CHANNELS = 2
FULL_SCALE = 32768

# What libsndfile is asked for, by subtype: as much as it holds. int16 for all others.
_READ_AS = {
    "PCM_24": "int32",
    "PCM_32": "int32",
    "FLOAT": "float64",
    "DOUBLE": "float64",
    "VORBIS": "float32",
    "OPUS": "float32",
}
# Suffix: format, subtype, and compression level (None: the format's own; 0: best quality).
_ENCODERS: dict[str, tuple[str, str, float | None]] = {
    ".wav": ("WAV", "PCM_16", None),
    ".flac": ("FLAC", "PCM_16", None),
    ".ogg": ("OGG", "VORBIS", 0.2),
}
WRITABLE_SUFFIXES = (*_ENCODERS, *ffmpeg.SUFFIXES)


@dataclass(kw_only=True)
class SongReader:
    """A song being read.

    ``frames``: what the file promises, or None where it does not say. ``clipped``: samples
    beyond full scale met so far, counted for float files only: every lossy decoder overshoots
    a little, and every player clips that.
    """

    path: Path
    sample_rate_hz: int
    channels: int
    frames: int | None
    clipped: int = field(default=0, init=False)
    _decoded: Iterator[NDArray[Any]]
    _lossy: bool

    @property
    def promised_seconds(self) -> float:
        """What ``frames`` are in seconds; 0 where the file does not say."""
        return (self.frames or 0) / self.sample_rate_hz

    def blocks(self) -> Iterator[Samples]:
        """Yield the song once, as int16 blocks (frames <= 65536, channels).

        Raises ``AudioError`` for NaN or infinite samples, a damaged or truncated file, and a
        song of no frames at all.
        """
        done = 0
        for block in self._decoded:
            if block.dtype.kind == "f":
                self._check_finite(block, done)
                if not self._lossy:
                    self.clipped += int(np.count_nonzero(np.abs(block) > 1.0))
            done += len(block)
            yield to_int16(block)
        if self.frames is not None and done < self.frames:
            raise audio_error(
                self.path, f"{TRUNCATED} or damaged, {done} of {self.frames} frames", COPY_AGAIN
            )
        if done == 0:
            raise audio_error(self.path, "holds no samples", "use a song of one frame or more")

    def _check_finite(self, block: NDArray[Any], start: int) -> None:
        bad = ~np.isfinite(block).all(axis=1)
        if bad.any():
            seconds = (start + int(np.argmax(bad))) / self.sample_rate_hz
            raise audio_error(
                self.path,
                f"NaN or infinite samples, the first at {seconds:.3f} s",
                "export it again",
            )


@contextmanager
def open_song(path: str | os.PathLike[str]) -> Iterator[SongReader]:
    """Open a song for reading in blocks; memory does not grow with its length.

    Raises ``AudioError`` when the file is missing, unreadable, empty, not audio, damaged, or
    has more than two channels.
    """
    path = Path(path)
    container = inspect(path)
    by_libsndfile = container.kind in ("wav", "ogg") or (
        container.kind == "flac" and container.frames is not None
    )
    with _libsndfile(path) if by_libsndfile else _ffmpeg(path, container) as reader:
        if not 1 <= reader.channels <= MAX_CHANNELS:
            raise audio_error(
                path,
                f"{reader.channels} channels, where songcast takes mono and stereo",
                "mix it down to two channels",
            )
        yield reader


def to_int16(block: NDArray[Any]) -> Samples:
    """Scale decoded samples (int16, left-justified int32, or float in [-1, 1]) to int16.

    >>> to_int16(np.array([0.5, 1.5, -1.0]))
    array([ 16384,  32767, -32768], dtype=int16)
    >>> to_int16(np.array([2**31 - 1, 1 << 15, (1 << 15) - 1], np.int32))
    array([32767,     1,     0], dtype=int16)
    """
    if block.dtype == np.int16:
        exact: Samples = block
        return exact
    if block.dtype == np.int32:
        levels: NDArray[np.int32] = ((block >> 15) + 1) >> 1
        return np.minimum(levels, FULL_SCALE - 1).astype(np.int16)
    scaled = np.rint(block * float(FULL_SCALE))
    return np.clip(scaled, -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


@contextmanager
def _libsndfile(path: Path) -> Iterator[SongReader]:
    import soundfile

    # Bytes: a name that is not valid unicode is still a name. Absolute: "-" is not stdin.
    name = str(path.absolute()) if os.name == "nt" else os.fsencode(path.absolute())
    try:
        file = soundfile.SoundFile(name)
    except soundfile.LibsndfileError as error:
        raise undecodable(path, error.error_string) from error
    with file:
        yield SongReader(
            path=path,
            sample_rate_hz=file.samplerate,
            channels=file.channels,
            frames=file.frames,
            _decoded=_libsndfile_blocks(path, file),
            _lossy=file.subtype in ("VORBIS", "OPUS"),
        )


def _libsndfile_blocks(path: Path, file: Any) -> Iterator[NDArray[Any]]:
    import soundfile

    dtype = _READ_AS.get(file.subtype, "int16")
    while True:
        try:
            block = file.read(BLOCK_FRAMES, dtype=dtype, always_2d=True)
        except soundfile.LibsndfileError as error:
            raise undecodable(path, error.error_string) from error
        if not len(block):
            return
        yield block


@contextmanager
def _ffmpeg(path: Path, container: Container) -> Iterator[SongReader]:
    with ffmpeg.decoding(path, container.kind, BLOCK_FRAMES) as stream:
        yield SongReader(
            path=path,
            sample_rate_hz=stream.sample_rate_hz,
            channels=stream.channels,
            frames=container.frames,
            _decoded=stream.blocks,
            _lossy=True,
        )


def encode(path: Path, blocks: Iterable[Samples], sample_rate_hz: int, channels: int) -> None:
    """Write int16 blocks (frames, channels) to ``path``, in the format of its suffix.

    wav and flac keep every bit. mp3 and m4a exist at some sample rates only: any other is
    resampled to the next higher one (to the highest from above it). Raises ``OSError`` or
    ``EncodingError``; use ``songcast.audio.write_song`` for readable errors.
    """
    if path.suffix.lower() in ffmpeg.SUFFIXES:
        ffmpeg.encode(path, blocks, sample_rate_hz, channels)
    else:
        _encode(path, blocks, sample_rate_hz, channels)


def _encode(path: Path, blocks: Iterable[Samples], sample_rate_hz: int, channels: int) -> None:
    import soundfile

    container, subtype, level = _ENCODERS[path.suffix.lower()]
    name = str(path) if os.name == "nt" else os.fsencode(path)
    kind = {"format": container, "subtype": subtype, "compression_level": level}
    try:
        with soundfile.SoundFile(name, "w", sample_rate_hz, channels, **kind) as file:
            for block in blocks:
                file.write(block)
    except soundfile.LibsndfileError as error:
        raise ffmpeg.EncodingError(error.error_string.strip()) from error

"""Songs as int16 amplitudes: reading any format, writing the common ones."""

import base64
import math
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from songcast.audio.decoders import BLOCK_FRAMES
from songcast.audio.encoders import WRITABLE_SUFFIXES, EncodingError, encode
from songcast.audio.formats import audio_error, printable
from songcast.audio.reading import open_song
from songcast.files import atomic_path

# The largest wav: its header counts bytes in 32 bits. mp3 and m4a pass through one.
_WAV_LIMIT_BYTES = 2**32 - 4096


class SongWarning(UserWarning):
    """A song was read although its file is damaged in part, or was clipped."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Song:
    """One song.

    ``samples``: (frames, channels) int16. ``sample_rate_hz``: frames per second.
    """

    samples: NDArray[np.int16]
    sample_rate_hz: int
    name: str

    @property
    def frames(self) -> int:
        """Number of time steps."""
        return int(self.samples.shape[0])

    @property
    def channels(self) -> int:
        """1 for mono, 2 for stereo."""
        return int(self.samples.shape[1])

    @property
    def seconds(self) -> float:
        """Duration."""
        return self.frames / self.sample_rate_hz


def read_song(path: str | os.PathLike[str], last_seconds: float = math.inf) -> Song:
    """Read a song, or the end of it, at its own sample rate and channels, named after the file.

    Reads every format of ``SONG_SUFFIXES``, recognised by content. 16-bit samples are exact;
    ``to_int16`` documents how others are converted. A file that is damaged in part, changes its
    format in mid-stream or is clipped gives one ``SongWarning``. Raises ``AudioError``, one line
    with the path, the problem and advice: missing, a folder, unreadable, empty, unsupported, no
    decodable audio, less than half of its declared length, NaN or infinite samples, more than
    two channels.
    """
    blocks: list[NDArray[np.int16]] = []
    frames = 0
    with open_song(path) as reader:
        most = last_seconds * reader.sample_rate_hz
        for block in reader.blocks():
            blocks.append(block)
            frames += len(block)
            while frames - len(blocks[0]) >= most:
                frames -= len(blocks.pop(0))
    samples = np.concatenate(blocks)[int(max(frames - most, 0)) :]
    if reader.damage:
        warnings.warn(f"{printable(reader.path)}: {reader.damage}", SongWarning, stacklevel=2)
    return Song(
        samples=samples,
        sample_rate_hz=reader.sample_rate_hz,
        name=printable(Path(reader.path.name)),
    )


def write_song(song: Song, path: str | os.PathLike[str]) -> None:
    """Write ``song`` as .wav, .flac (both lossless int16), .ogg, .mp3 or .m4a, by the suffix.

    The file appears when it is whole, or not at all. A rate that mp3 or m4a does not have is
    resampled to the next higher one. Raises ``AudioError`` for another suffix, a folder that
    cannot be written to, or a song that the format cannot hold.
    """
    if song.frames == 0:
        _check_target(Path(path))
        raise audio_error(
            Path(path), "there are no samples to write", "give a song of a frame or more"
        )
    _check_size(Path(path), song.samples.nbytes)
    write_blocks(path, _blocks(song), song.sample_rate_hz, song.channels)


def base64_of(song: Song, audio_format: str) -> str:
    """Return base64 of ``song`` as a file in ``audio_format``, the suffix for ``write_song``."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / f"song.{audio_format}"
        write_song(song, path)
        return base64.b64encode(path.read_bytes()).decode()


def write_blocks(
    path: str | os.PathLike[str],
    blocks: Iterable[NDArray[np.int16]],
    sample_rate_hz: int,
    channels: int,
) -> None:
    """Write a song that arrives in ``blocks`` (frames, channels), as ``write_song`` does.

    wav, flac and ogg are written in constant memory; mp3 and m4a hold the whole song.
    """
    path = Path(path)
    _check_target(path)
    with _writing(path) as temporary:
        try:
            encode(temporary, _limited(path, blocks), sample_rate_hz, channels)
        except EncodingError as error:
            why = f"{channels} channels at {sample_rate_hz} Hz: {error}"
            raise audio_error(path, f"cannot be written ({why})", "try .wav") from error


def _limited(path: Path, blocks: Iterable[NDArray[np.int16]]) -> Iterator[NDArray[np.int16]]:
    size = 0
    for block in blocks:
        size += block.nbytes
        _check_size(path, size)
        yield block


def _check_size(path: Path, size_bytes: int) -> None:
    suffix = path.suffix.lower()
    if suffix in (".wav", ".mp3", ".m4a") and size_bytes > _WAV_LIMIT_BYTES:
        raise audio_error(path, f"the song is too long for {suffix[1:]} (4 GB)", "use .flac")


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise ``AudioError`` where ``write_song`` could not write ``path``; leave it as it is."""

    class TriedError(Exception):
        """Ends the attempt: nothing takes the place of ``path``."""

    _check_target(Path(path))
    with suppress(TriedError), _writing(Path(path)):
        raise TriedError


def _check_target(path: Path) -> None:
    if path.suffix.lower() not in WRITABLE_SUFFIXES:
        raise audio_error(
            path,
            f"cannot write {path.suffix[1:].lower() or 'a file without suffix'}",
            f"use one of {' '.join(WRITABLE_SUFFIXES)}",
        )


@contextmanager
def _writing(path: Path) -> Iterator[Path]:
    """Yield a temporary file that becomes ``path``; what the system refuses is one line."""
    try:
        if path.exists() and not path.is_file():
            raise audio_error(path, "exists and is not a file", "choose another name")
        with atomic_path(path) as temporary:
            yield temporary
    except OSError as error:
        raise audio_error(
            path, f"cannot be written ({error.strerror})", "check the folder and its permissions"
        ) from error


def _blocks(song: Song) -> Iterator[NDArray[np.int16]]:
    for start in range(0, song.frames, BLOCK_FRAMES):
        yield np.ascontiguousarray(song.samples[start : start + BLOCK_FRAMES])

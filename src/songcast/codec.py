"""Decoding and encoding of songs: the only importer of soundfile and imageio_ffmpeg.

wav, flac and ogg are decoded by libsndfile; mp3, m4a, aac, and a flac that does not know its
length, by the ffmpeg binary that imageio-ffmpeg brings, through a pipe. (libsndfile guesses the
length of an mp3 without a Xing header and drops what lies beyond its guess, and libmpg123
writes to the terminal. pydub would hold the whole song and hide the decoder's complaints.)

To int16: 16-bit samples are exact. 8-bit and companded samples are exact multiples of what they
were. 24- and 32-bit integers are rounded to the nearest of 2^16 levels, halves up. Floats are
multiplied by 32768 and rounded, halves to even. All are limited to [-32768, 32767].
"""

import os
import re
import struct
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from songcast.containers import (
    COPY_AGAIN,
    TRUNCATED,
    Container,
    audio_error,
    inspect,
)
from songcast.errors import AudioError
from songcast.resampling import resampled

Samples = NDArray[np.int16]

BLOCK_FRAMES = 65536
MAX_CHANNELS = 2
FULL_SCALE = 32768

_READ_AS = {
    "PCM_24": "int32",
    "PCM_32": "int32",
    "FLOAT": "float64",
    "DOUBLE": "float64",
    "VORBIS": "float32",
    "OPUS": "float32",
}
_DEMUXERS = {"mp4": "mov", "mp3": "mp3", "aac": "aac", "flac": "flac"}
# Suffix: format, subtype, and compression level (None: the format's own; 0: best quality).
_ENCODINGS: dict[str, tuple[str, str, float | None]] = {
    ".wav": ("WAV", "PCM_16", None),
    ".flac": ("FLAC", "PCM_16", None),
    ".mp3": ("MP3", "MPEG_LAYER_III", 0.0),
    ".ogg": ("OGG", "VORBIS", 0.2),
}
WRITABLE_SUFFIXES = tuple(_ENCODINGS)
MP3_RATES_HZ = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)


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
        raise _refused(path, error.error_string) from error
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
            raise _refused(path, error.error_string) from error
        if not len(block):
            return
        yield block


@contextmanager
def _ffmpeg(path: Path, container: Container) -> Iterator[SongReader]:
    """Decode through a pipe, as big-endian float32 in Sun's .au, whose header is six integers."""
    # mp3 files often carry tags or junk that players skip; the promised length is checked here.
    strict = [] if container.kind == "mp3" else ["-xerror"]
    command: list[str | bytes] = [
        *(_ffmpeg_binary(path), "-v", "error", "-nostdin", *strict),
        *("-protocol_whitelist", "file", "-f", _DEMUXERS[container.kind]),
        *("-i", b"file:" + os.fsencode(path.absolute())),
        *("-map", "0:a:0", "-c:a", "pcm_f32be", "-f", "au", "-protocol_whitelist", "pipe", "-"),
    ]
    with (
        tempfile.TemporaryFile() as complaints,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=complaints
        ) as process,
    ):
        try:
            stream: Any = process.stdout
            header = stream.read(24)
            if len(header) < 24:
                process.wait()
                raise _refused(path, _last_words(complaints))
            _, offset, _, _, sample_rate_hz, channels = struct.unpack(">6I", header)
            stream.read(offset - 24)
            yield SongReader(
                path=path,
                sample_rate_hz=sample_rate_hz,
                channels=channels,
                frames=container.frames,
                _decoded=_ffmpeg_blocks(path, process, complaints, channels),
                _lossy=True,
            )
        finally:
            process.kill()


def _ffmpeg_blocks(
    path: Path, process: "subprocess.Popen[bytes]", complaints: Any, channels: int
) -> Iterator[NDArray[Any]]:
    frame_bytes = 4 * channels
    stream: Any = process.stdout
    while data := stream.read(BLOCK_FRAMES * frame_bytes):
        whole = len(data) // frame_bytes * frame_bytes
        yield np.frombuffer(data[:whole], ">f4").reshape(-1, channels)
    if process.wait():
        raise _refused(path, _last_words(complaints))


def _ffmpeg_binary(path: Path) -> str:
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError) as error:
        raise audio_error(
            path, "no ffmpeg to decode it with", "pip install imageio-ffmpeg, or use wav or flac"
        ) from error


def _last_words(complaints: Any) -> str:
    complaints.seek(0)
    lines = complaints.read().decode(errors="replace").splitlines()
    return re.sub(r"^(\[[^]]*\] )+", "", lines[0]) if lines else "no sound in it"


def _refused(path: Path, why: str) -> AudioError:
    why = why.strip().removeprefix("Error : ").rstrip(".")
    return audio_error(path, f"is damaged, it cannot be decoded ({why})", COPY_AGAIN)


def encode(path: Path, blocks: Iterable[Samples], sample_rate_hz: int, channels: int) -> None:
    """Write int16 blocks (frames, channels) to ``path``, in the format of its suffix.

    wav and flac keep every bit. mp3 exists at nine sample rates only: any other is resampled
    to the next higher one (to 48 000 Hz from above). Raises ``OSError`` or
    ``soundfile.LibsndfileError``; use ``songcast.audio.write_song`` for readable errors.
    """
    import soundfile

    container, subtype, level = _ENCODINGS[path.suffix.lower()]
    if container == "MP3" and sample_rate_hz not in MP3_RATES_HZ:
        rate = min((r for r in MP3_RATES_HZ if r >= sample_rate_hz), default=MP3_RATES_HZ[-1])
        blocks = resampled(blocks, sample_rate_hz, rate, channels)
        sample_rate_hz = rate
    name = str(path) if os.name == "nt" else os.fsencode(path)
    with soundfile.SoundFile(
        name,
        "w",
        sample_rate_hz,
        channels,
        subtype=subtype,
        format=container,
        compression_level=level,
    ) as file:
        for block in blocks:
            # Until libsndfile's pull request 1106, a stereo mp3 written from int16 is noise.
            file.write(block / np.float32(FULL_SCALE) if container == "MP3" else block)

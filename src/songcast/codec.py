"""Decoding and encoding of songs: the only importer of soundfile, pydub and imageio_ffmpeg.

wav, flac and ogg are decoded by libsndfile; mp3, m4a, aac, and a flac that does not know its
length, by the ffmpeg binary that imageio-ffmpeg brings, through a pipe. (libsndfile guesses the
length of an mp3 without a Xing header and drops what lies beyond its guess, and libmpg123
writes to the terminal. pydub would hold the whole song and hide the decoder's complaints.)
wav, flac and ogg are encoded by libsndfile in a stream; mp3 and m4a by pydub, with that ffmpeg.

To int16: 16-bit samples are exact. 8-bit and companded samples are exact multiples of what they
were. 24- and 32-bit integers are rounded to the nearest of 2^16 levels, halves up. Floats are
multiplied by 32768 and rounded, halves to even. All are limited to [-32768, 32767].
"""

import os
import re
import struct
import subprocess
import tempfile
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
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
# What ffmpeg puts before a message: "[mp3 @ 0x55d0c8a3e540] ".
_PREFIXES = re.compile(r"^(\[[^]]*\] )+")
_DEMUXERS = {"mp4": "mov", "mp3": "mp3", "aac": "aac", "flac": "flac"}
# Suffix: format, subtype, and compression level (None: the format's own; 0: best quality).
_BY_LIBSNDFILE: dict[str, tuple[str, str, float | None]] = {
    ".wav": ("WAV", "PCM_16", None),
    ".flac": ("FLAC", "PCM_16", None),
    ".ogg": ("OGG", "VORBIS", 0.2),
}
# Suffix: ffmpeg's name of the format, and its options: the best variable bit rate of mp3.
_BY_PYDUB: dict[str, tuple[str, list[str]]] = {
    ".mp3": ("mp3", ["-q:a", "0"]),
    ".m4a": ("ipod", ["-b:a", "256k"]),
}
WRITABLE_SUFFIXES = (*_BY_LIBSNDFILE, *_BY_PYDUB)
MP3_RATES_HZ = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_RATES_HZ = {".mp3": MP3_RATES_HZ, ".m4a": (7350, *MP3_RATES_HZ, 64000, 88200, 96000)}
_PYDUB_LOCK = threading.Lock()


class EncodingError(Exception):
    """The encoder refused; the message is one line, why."""


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
    return _PREFIXES.sub("", lines[0]) if lines else "no sound in it"


def _refused(path: Path, why: str) -> AudioError:
    why = why.strip().removeprefix("Error : ").rstrip(".")
    return audio_error(path, f"is damaged, it cannot be decoded ({why})", COPY_AGAIN)


def encode(path: Path, blocks: Iterable[Samples], sample_rate_hz: int, channels: int) -> None:
    """Write int16 blocks (frames, channels) to ``path``, in the format of its suffix.

    wav and flac keep every bit. mp3 and m4a exist at some sample rates only: any other is
    resampled to the next higher one (to the highest from above it). Raises ``OSError`` or
    ``EncodingError``; use ``songcast.audio.write_song`` for readable errors.
    """
    suffix = path.suffix.lower()
    if suffix in _BY_PYDUB:
        rates = _RATES_HZ[suffix]
        rate = min((r for r in rates if r >= sample_rate_hz), default=rates[-1])
        _encode_by_pydub(path, resampled(blocks, sample_rate_hz, rate, channels), rate, channels)
    else:
        _encode_by_libsndfile(path, blocks, sample_rate_hz, channels)


def _encode_by_libsndfile(
    path: Path, blocks: Iterable[Samples], sample_rate_hz: int, channels: int
) -> None:
    import soundfile

    container, subtype, level = _BY_LIBSNDFILE[path.suffix.lower()]
    name = str(path) if os.name == "nt" else os.fsencode(path)
    kind = {"format": container, "subtype": subtype, "compression_level": level}
    try:
        with soundfile.SoundFile(name, "w", sample_rate_hz, channels, **kind) as file:
            for block in blocks:
                file.write(block)
    except soundfile.LibsndfileError as error:
        raise EncodingError(error.error_string.strip()) from error


def _encode_by_pydub(
    path: Path, blocks: Iterable[Samples], sample_rate_hz: int, channels: int
) -> None:
    """Encode the whole song at once: pydub hands it to ffmpeg in a temporary wav."""
    suffix = path.suffix.lower()
    if suffix == ".mp3" and channels > MAX_CHANNELS:
        raise EncodingError("mp3 holds one or two")  # ffmpeg would mix them down, unasked
    container, options = _BY_PYDUB[suffix]
    pcm = b"".join(block.astype("<i2").tobytes() for block in blocks)
    with _pydub() as audio_segment, path.open("wb") as file:
        segment = audio_segment.AudioSegment(
            data=pcm, sample_width=2, frame_rate=sample_rate_hz, channels=channels
        )
        try:
            segment.export(file, format=container, parameters=["-v", "error", *options])
        except audio_segment.CouldntEncodeError as error:
            said = str(error).rpartition("ffmpeg/avlib:")[2].strip().splitlines() or ["no reason"]
            raise EncodingError(_PREFIXES.sub("", said[0])) from error


@contextmanager
def _pydub() -> Iterator[Any]:
    """Yield pydub's ``audio_segment``, set to the ffmpeg of imageio-ffmpeg.

    Its temporary files, which it forgets when it fails, go to a folder that is removed.
    """
    with warnings.catch_warnings():
        # No ffmpeg on the PATH, audioop's end, its own regular expressions: all known.
        warnings.simplefilter("ignore")
        from pydub import audio_segment
    try:
        import imageio_ffmpeg

        binary = imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise EncodingError("no ffmpeg: pip install imageio-ffmpeg") from error
    with _PYDUB_LOCK, tempfile.TemporaryDirectory() as scratch, ExitStack() as opened:

        def temporary_file(mode: str, delete: bool) -> Any:  # noqa: ARG001
            return opened.enter_context(
                tempfile.NamedTemporaryFile(mode, dir=scratch, delete=False)
            )

        audio_segment.AudioSegment.converter = binary
        audio_segment.NamedTemporaryFile = temporary_file
        try:
            yield audio_segment
        finally:
            audio_segment.NamedTemporaryFile = tempfile.NamedTemporaryFile

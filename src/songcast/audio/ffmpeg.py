"""The ffmpeg that imageio-ffmpeg brings: the only importer of pydub and imageio_ffmpeg.

It decodes through a pipe: pydub would hold the whole song and hide the decoder's complaints.
It encodes by pydub.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from songcast.audio.formats import Kind, audio_error, undecodable
from songcast.audio.resampling import resampled

_DEMUXERS: dict[Kind, str] = {"mp4": "mov", "mp3": "mp3", "aac": "aac", "flac": "flac"}
# What ffmpeg puts before a message: "[mp3 @ 0x55d0c8a3e540] ".
_PREFIXES = re.compile(r"^(\[[^]]*\] )+")
# Suffix: ffmpeg's name of the format, and its options: the best variable bit rate of mp3.
_ENCODERS: dict[str, tuple[str, list[str]]] = {
    ".mp3": ("mp3", ["-q:a", "0"]),
    ".m4a": ("ipod", ["-b:a", "256k"]),
}
SUFFIXES = tuple(_ENCODERS)
_MP3_RATES_HZ = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_RATES_HZ = {".mp3": _MP3_RATES_HZ, ".m4a": (7350, *_MP3_RATES_HZ, 64000, 88200, 96000)}
_MP3_CHANNELS = 2
_PYDUB_LOCK = threading.Lock()


class EncodingError(Exception):
    """The encoder refused; the message is one line, why."""


@dataclass(frozen=True, kw_only=True)
class Stream:
    """A song being decoded. ``blocks``: big-endian float32 (frames, channels), given once."""

    sample_rate_hz: int
    channels: int
    blocks: Iterator[NDArray[np.float32]]


@contextmanager
def decoding(path: Path, kind: Kind, block_frames: int) -> Iterator[Stream]:
    """Decode the file at ``path`` in blocks of up to ``block_frames``.

    Raises ``AudioError``, also from ``blocks``, for a file that cannot be decoded.
    """
    # mp3 files often carry tags or junk that players skip; their promised length is checked later.
    strict = [] if kind == "mp3" else ["-xerror"]
    command: list[str | bytes] = [
        *(_binary(path), "-v", "error", "-nostdin", *strict),
        *("-protocol_whitelist", "file", "-f", _DEMUXERS[kind]),
        *("-i", b"file:" + os.fsencode(path.absolute())),
        # Sun's .au: its header is six integers, and it needs no length.
        *("-map", "0:a:0", "-c:a", "pcm_f32be", "-f", "au", "-protocol_whitelist", "pipe", "-"),
    ]
    with (
        tempfile.TemporaryFile() as complaints,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=complaints
        ) as process,
    ):
        try:
            pipe: Any = process.stdout
            header = pipe.read(24)
            if len(header) < 24:
                process.wait()
                raise undecodable(path, _last_words(complaints))
            _, offset, _, _, sample_rate_hz, channels = struct.unpack(">6I", header)
            pipe.read(offset - 24)
            blocks = _blocks(path, process, complaints, channels, block_frames)
            yield Stream(sample_rate_hz=sample_rate_hz, channels=channels, blocks=blocks)
        finally:
            process.kill()


def _blocks(
    path: Path,
    process: "subprocess.Popen[bytes]",
    complaints: Any,
    channels: int,
    block_frames: int,
) -> Iterator[NDArray[np.float32]]:
    frame_bytes = 4 * channels
    pipe: Any = process.stdout
    while data := pipe.read(block_frames * frame_bytes):
        whole = len(data) // frame_bytes * frame_bytes
        yield np.frombuffer(data[:whole], ">f4").reshape(-1, channels)
    if process.wait():
        raise undecodable(path, _last_words(complaints))


def _binary(path: Path) -> str:
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


def encode(
    path: Path, blocks: Iterable[NDArray[np.int16]], sample_rate_hz: int, channels: int
) -> None:
    """Write int16 blocks (frames, channels) to ``path``, whose suffix is one of ``SUFFIXES``.

    A rate that the format does not have is resampled to the next higher one (to the highest
    from above it). The whole song is encoded at once: pydub hands it to ffmpeg in a temporary
    wav. Raises ``OSError`` or ``EncodingError``.
    """
    suffix = path.suffix.lower()
    if suffix == ".mp3" and channels > _MP3_CHANNELS:
        raise EncodingError("mp3 holds one or two")  # ffmpeg would mix them down, unasked
    rates = _RATES_HZ[suffix]
    rate = min((r for r in rates if r >= sample_rate_hz), default=rates[-1])
    container, options = _ENCODERS[suffix]
    blocks = resampled(blocks, sample_rate_hz, rate, channels)
    pcm = b"".join(block.astype("<i2").tobytes() for block in blocks)
    with _pydub() as audio_segment, path.open("wb") as file:
        segment = audio_segment.AudioSegment(
            data=pcm, sample_width=2, frame_rate=rate, channels=channels
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

"""Encoders: wav, flac and ogg by libsndfile in a stream, mp3 and m4a by pydub.

The only importer of pydub and of imageio-ffmpeg, which brings the ffmpeg program for pydub.
"""

import errno
import io
import os
import re
import tempfile
import threading
import warnings
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from songcast.audio.conversion import Samples, resampled
from songcast.audio.formats import MAX_CHANNELS

# Suffix: libsndfile's format, subtype, and compression level (None: the format's default).
_BY_LIBSNDFILE: dict[str, tuple[str, str, float | None]] = {
    ".wav": ("WAV", "PCM_16", None),
    ".flac": ("FLAC", "PCM_16", None),
    ".ogg": ("OGG", "VORBIS", 0.2),
}
_MP3_RATES_HZ = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
# Suffix: ffmpeg's name of the format, its options, and the sample rates that the format has.
_BY_PYDUB: dict[str, tuple[str, list[str], tuple[int, ...]]] = {
    ".mp3": ("mp3", ["-q:a", "0"], _MP3_RATES_HZ),
    ".m4a": ("ipod", ["-b:a", "256k"], (7350, *_MP3_RATES_HZ, 64000, 88200, 96000)),
}
WRITABLE_SUFFIXES = (*_BY_LIBSNDFILE, *_BY_PYDUB)
# What ffmpeg puts before a message: "[mp3 @ 0x55d0c8a3e540] ".
_PREFIXES = re.compile(r"^(\[[^]]*\] )+")
_PYDUB_LOCK = threading.Lock()
# Of libsndfile, which does not tell what the system said.
SYSTEM_ERROR = 2


class EncodingError(Exception):
    """The encoder failed; the message is one line with the reason."""


def encode(path: Path, blocks: Iterable[Samples], sample_rate_hz: int, channels: int) -> None:
    """Write int16 blocks (frames, channels) to ``path``, in the format of its suffix.

    wav and flac are lossless. mp3 and m4a exist at some sample rates only: any other is
    resampled to the next higher one, or to the highest, and the whole song is held in memory.
    Raises ``OSError`` or ``EncodingError``; use ``write_song`` for readable errors.
    """
    if path.suffix.lower() in _BY_PYDUB:
        _encode_by_pydub(path, blocks, sample_rate_hz, channels)
    else:
        _encode_by_libsndfile(path, blocks, sample_rate_hz, channels)


def _encode_by_libsndfile(
    path: Path, blocks: Iterable[Samples], sample_rate_hz: int, channels: int
) -> None:
    import soundfile

    container, subtype, level = _BY_LIBSNDFILE[path.suffix.lower()]
    kind = {"format": container, "subtype": subtype, "compression_level": level}
    try:
        with soundfile.SoundFile(os.fsencode(path), "w", sample_rate_hz, channels, **kind) as file:
            for block in blocks:
                file.write(block)
    except soundfile.LibsndfileError as error:
        if error.code == SYSTEM_ERROR:
            raise OSError(errno.EIO, "the disk is full, or it fails") from error
        raise EncodingError(error.error_string.strip()) from error


def _encode_by_pydub(
    path: Path, blocks: Iterable[Samples], sample_rate_hz: int, channels: int
) -> None:
    suffix = path.suffix.lower()
    if suffix == ".mp3" and channels > MAX_CHANNELS:
        raise EncodingError("mp3 holds one or two")  # ffmpeg would mix them down
    container, options, rates = _BY_PYDUB[suffix]
    rate = min((r for r in rates if r >= sample_rate_hz), default=rates[-1])
    blocks = resampled(blocks, sample_rate_hz, rate, channels)
    pcm = io.BytesIO()  # joining all blocks at the end would hold them twice
    for block in blocks:
        pcm.write(block.astype("<i2").tobytes())
    with warnings.catch_warnings():
        # No ffmpeg on the PATH, audioop is deprecated, invalid escapes in its expressions.
        warnings.simplefilter("ignore")
        from pydub import audio_segment
    segment = audio_segment.AudioSegment(
        data=pcm.getvalue(), sample_width=2, frame_rate=rate, channels=channels
    )
    segment.converter = ffmpeg_program()
    # pydub leaves its temporary files when it fails: here they go to a folder that is removed.
    with _PYDUB_LOCK, tempfile.TemporaryDirectory() as scratch, path.open("wb") as file:
        audio_segment.NamedTemporaryFile = partial(tempfile.NamedTemporaryFile, dir=scratch)
        try:
            segment.export(file, format=container, parameters=["-v", "error", *options])
        except audio_segment.CouldntEncodeError as error:
            lines = str(error).rpartition("ffmpeg/avlib:")[2].strip().splitlines()
            raise EncodingError(_PREFIXES.sub("", lines[0] if lines else "no reason")) from error
        finally:
            audio_segment.NamedTemporaryFile = tempfile.NamedTemporaryFile


def ffmpeg_program() -> str:
    """Return the path of the ffmpeg program of imageio-ffmpeg. Raises ``EncodingError``."""
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError) as error:
        raise EncodingError("no ffmpeg: pip install imageio-ffmpeg") from error

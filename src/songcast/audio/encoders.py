"""Encoders, all in a stream: wav, flac and ogg by libsndfile, mp3 and m4a by FFmpeg."""

import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np

from songcast.audio.conversion import Samples, resampled

# Suffix: libsndfile's format, subtype, and compression level (None: the format's default).
_BY_LIBSNDFILE: dict[str, tuple[str, str, float | None]] = {
    ".wav": ("WAV", "PCM_16", None),
    ".flac": ("FLAC", "PCM_16", None),
    ".ogg": ("OGG", "VORBIS", 0.2),
}
_MP3_RATES_HZ = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
# Suffix: FFmpeg's names of format and encoder, its options, the sample rates that the format has.
_BY_FFMPEG: dict[str, tuple[str, str, dict[str, str], tuple[int, ...]]] = {
    # Variable bit rate of the best quality, `-q:a 0` of the program.
    ".mp3": ("mp3", "libmp3lame", {"flags": "+qscale", "global_quality": "0"}, _MP3_RATES_HZ),
    ".m4a": ("ipod", "aac", {"b": "256k"}, (7350, *_MP3_RATES_HZ, 64000, 88200, 96000)),
}
WRITABLE_SUFFIXES = (*_BY_LIBSNDFILE, *_BY_FFMPEG)
_LAYOUTS = {1: "mono", 2: "stereo"}


class EncodingError(Exception):
    """The encoder failed; the message is one line with the reason."""


def encode(path: Path, blocks: Iterable[Samples], sample_rate_hz: int, channels: int) -> None:
    """Write int16 blocks (frames, channels) to ``path``, in the format of its suffix.

    wav and flac are lossless. mp3 and m4a exist at some sample rates only: any other is
    resampled to the next higher one, or to the highest. Raises ``OSError`` or ``EncodingError``;
    use ``write_song`` for readable errors.
    """
    if path.suffix.lower() in _BY_FFMPEG:
        _encode_by_ffmpeg(path, blocks, sample_rate_hz, channels)
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


def _encode_by_ffmpeg(
    path: Path, blocks: Iterable[Samples], sample_rate_hz: int, channels: int
) -> None:
    import av

    container, codec, options, rates = _BY_FFMPEG[path.suffix.lower()]
    if channels not in _LAYOUTS:
        raise EncodingError("the format holds one or two")
    rate = min((r for r in rates if r >= sample_rate_hz), default=rates[-1])
    try:
        with (
            av.logging.Capture(),
            path.open("wb") as file,
            av.open(file, "w", format=container) as output,
        ):
            layout = _LAYOUTS[channels]
            stream = output.add_stream(codec, rate=rate, layout=layout, options=options)
            frames = 0
            for block in resampled(blocks, sample_rate_hz, rate, channels):
                data = np.ascontiguousarray(block).reshape(1, -1)
                frame = av.AudioFrame.from_ndarray(data, format="s16", layout=layout)
                frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), frames
                frames += len(block)
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
    except av.FFmpegError as error:
        raise EncodingError(str(error.strerror)) from error

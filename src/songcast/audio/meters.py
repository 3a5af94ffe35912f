"""Loudness and fingerprint of a song, measured by FFmpeg while the song is read."""

import re
import subprocess
from contextlib import suppress
from typing import Self

import numpy as np
from numpy.typing import NDArray

from songcast.audio.conversion import Samples

# Chromaprint's items: 32 bits for every 1365 frames at 11025 Hz.
ITEM_SECONDS = 1365 / 11025
# The filter's value where nothing exceeds the absolute gate of EBU R128.
_GATE_LUFS = -70.0
_INTEGRATED = re.compile(rb"I: +(-?[0-9.]+) LUFS")
# FFmpeg fails, or takes gigabytes, at other sample rates.
_RATES_HZ = range(2000, 768_001)


class FFmpegMeter:
    """Integrated loudness after EBU R128, and Chromaprint, of one song. A context manager.

    The ffmpeg program of imageio-ffmpeg measures both. The fingerprint is empty for less than 3 s,
    and both are missing where that program was built without Chromaprint.
    """

    _process: subprocess.Popen[bytes] | None = None

    def __init__(self, sample_rate_hz: int, channels: int) -> None:
        self._rate_hz = sample_rate_hz
        self._format = ("-f", "s16le", "-ar", str(sample_rate_hz), "-ac", str(channels))

    def __enter__(self) -> Self:
        import imageio_ffmpeg

        if self._rate_hz in _RATES_HZ:
            program = (imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostats")
            loudness = ("-af", "ebur128=framelog=quiet")
            output = ("-f", "chromaprint", "-fp_format", "raw", "pipe:1")
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(
                (*program, *self._format, "-i", "pipe:0", *loudness, *output),
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
            )
        return self

    def add(self, block: Samples) -> None:
        """Send a block (frames, channels) to the program, which answers at the end."""
        if self._process and self._process.stdin:
            with suppress(BrokenPipeError):
                self._process.stdin.write(np.ascontiguousarray(block, "<i2").data)

    def finish(self) -> tuple[float | None, NDArray[np.uint32]]:
        """End the song; return its loudness and its items, one for every ``ITEM_SECONDS``.

        The loudness in LUFS is None for silence and below 0.4 s.
        """
        raw, log = self._process.communicate() if self._process else (b"", b"")
        lufs = float([_GATE_LUFS, *_INTEGRATED.findall(log)][-1])
        items = np.frombuffer(raw[: len(raw) // 4 * 4], "<u4")
        return lufs if lufs > _GATE_LUFS else None, items

    def __exit__(self, *_: object) -> None:
        if self._process:
            self._process.kill()
            self._process.communicate()

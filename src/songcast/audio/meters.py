"""Loudness and fingerprint of a song, measured by FFmpeg while the song is read."""

import subprocess
from contextlib import suppress
from fractions import Fraction
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray

from songcast.audio.conversion import Samples

# Chromaprint's items: 32 bits for every 1365 frames at 11025 Hz.
ITEM_SECONDS = 1365 / 11025
# The filter's value where nothing exceeds the absolute gate of EBU R128.
_GATE_LUFS = -70.0
# FFmpeg fails, or takes gigabytes, at other sample rates.
_RATES_HZ = range(2000, 768_001)


class LoudnessMeter:
    """Integrated loudness after EBU R128, by FFmpeg's filter ``ebur128``."""

    def __init__(self, sample_rate_hz: int, channels: int) -> None:
        import av

        self._layout = "mono" if channels == 1 else "stereo"
        self._time_base = Fraction(1, sample_rate_hz)
        self._rate_hz, self._frames, self._lufs = sample_rate_hz, 0, _GATE_LUFS
        self._graph = av.filter.Graph()
        if sample_rate_hz not in _RATES_HZ:
            return
        nodes = (
            self._graph.add_abuffer(
                sample_rate=sample_rate_hz,
                format="s16",
                layout=self._layout,
                time_base=self._time_base,
            ),
            self._graph.add("ebur128", "metadata=1:framelog=quiet"),
            self._graph.add("abuffersink"),
        )
        for source, target in pairwise(nodes):
            source.link_to(target)
        with av.logging.Capture():
            self._graph.configure()

    def add(self, block: Samples) -> None:
        """Measure a block (frames, channels)."""
        import av

        if self._rate_hz not in _RATES_HZ:
            return
        data = np.ascontiguousarray(block).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(data, format="s16", layout=self._layout)
        frame.sample_rate, frame.pts = self._rate_hz, self._frames
        frame.time_base = self._time_base
        self._frames += len(block)
        with av.logging.Capture():
            self._graph.push(frame)
            self._pull()

    def _pull(self) -> None:
        import av

        while True:
            try:
                measured = self._graph.pull()
            except (av.BlockingIOError, av.EOFError):
                return
            self._lufs = float(measured.metadata.get("lavfi.r128.I", self._lufs))

    @property
    def lufs(self) -> float | None:
        """The loudness in LUFS so far; None for silence and below 0.4 s."""
        return self._lufs if self._lufs > _GATE_LUFS else None


class FingerprintMeter:
    """Chromaprint of a song, by the ffmpeg program of imageio-ffmpeg. A context manager.

    Empty for less than 3 s, and where that program was built without Chromaprint.
    """

    _process: subprocess.Popen[bytes] | None = None

    def __init__(self, sample_rate_hz: int, channels: int) -> None:
        self._rate_hz = sample_rate_hz
        self._format = ("-f", "s16le", "-ar", str(sample_rate_hz), "-ac", str(channels))

    def __enter__(self) -> Self:
        import imageio_ffmpeg

        if self._rate_hz not in _RATES_HZ:
            return self
        program = (imageio_ffmpeg.get_ffmpeg_exe(), "-v", "quiet", *self._format, "-i", "pipe:0")
        output = ("-f", "chromaprint", "-fp_format", "raw", "pipe:1")
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            (*program, *output), stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL
        )
        return self

    def add(self, block: Samples) -> None:
        """Send a block (frames, channels) to the program, which answers at the end."""
        if self._process and self._process.stdin:
            with suppress(BrokenPipeError):
                self._process.stdin.write(np.ascontiguousarray(block, "<i2").data)

    def finish(self) -> NDArray[np.uint32]:
        """End the song; return its items, one for every ``ITEM_SECONDS``."""
        items = self._process.communicate()[0] if self._process else b""
        return np.frombuffer(items[: len(items) // 4 * 4], "<u4")

    def __exit__(self, *_: object) -> None:
        if self._process:
            self._process.kill()
            self._process.communicate()

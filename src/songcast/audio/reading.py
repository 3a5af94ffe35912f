"""Songs as int16 blocks, read in a stream: one format per song, and a list of its damage."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from songcast.audio.conversion import Samples, remixed, resampled, to_int16
from songcast.audio.decoders import Stream, open_stream
from songcast.audio.formats import (
    COPY_AGAIN,
    audio_error,
    check_channels,
    damaged,
    first_bytes,
)


class SongReader:
    """A song being read.

    ``declared_frames``: the length in the file's header, None where it has none.
    """

    def __init__(self, path: Path, stream: Stream) -> None:
        self.path, self._stream = path, stream
        self.sample_rate_hz, self.channels = stream.sample_rate_hz, stream.channels
        self.declared_frames = stream.declared_frames
        self._clipped, self._is_short = 0, False
        self._odd: list[str] = []

    @property
    def declared_seconds(self) -> float:
        """``declared_frames`` in seconds; 0 where the file has no such header."""
        return (self.declared_frames or 0) / self.sample_rate_hz

    @property
    def damage(self) -> str:
        """What was odd so far, in one line; empty for a sound file. Complete after ``blocks``."""
        odd, problems = [*self._stream.notes, *self._odd], self._stream.problems
        if self._is_short or self.declared_frames is None:
            problems = problems + self._stream.trailing_problems
        elif self._stream.slack_frames == 0:  # complete: a tag that was not recognised, or a CRC
            problems = [problem for problem in problems if "CRC" in problem]
        if problems:
            times = f" {len(problems)} times" if len(problems) > 1 else ""
            odd.append(f"the decoder reported{times}: {problems[0]}")
        if self._clipped:
            odd.append(f"{self._clipped} samples beyond full scale were clipped")
        return "; ".join(odd)

    def blocks(self) -> Iterator[Samples]:
        """Yield the song once, as int16 blocks (frames <= 65536, channels).

        A stream that changes its rate or channels is converted to those of the song. Raises
        ``AudioError`` for NaN or infinite samples, more than two channels, no frames at all, and
        less than half of the declared length.
        """
        frames = 0
        alike = groupby(self._stream.blocks, lambda part: (part[0], part[1].shape[1]))
        for (rate, channels), parts in alike:
            if (rate, channels) != (self.sample_rate_hz, self.channels):
                self._note_change(rate, channels, frames)
            blocks = (remixed(self._converted(x, frames), self.channels) for _, x in parts)
            for block in resampled(blocks, rate, self.sample_rate_hz, self.channels):
                frames += len(block)
                if len(block):
                    yield block
        self._check_length(frames)

    def _converted(self, block: NDArray[Any], start: int) -> Samples:
        if block.dtype.kind == "f":
            finite = np.isfinite(block).all(axis=1)
            if not finite.all():
                seconds = (start + int(np.argmin(finite))) / self.sample_rate_hz
                raise audio_error(
                    self.path,
                    f"NaN or infinite samples, the first at {seconds:.3f} s",
                    "export it again",
                )
            if self._stream.counts_clipping:
                self._clipped += int(np.count_nonzero(np.abs(block) > 1.0))
        return to_int16(block)

    def _note_change(self, rate: int, channels: int, frames: int) -> None:
        check_channels(self.path, channels)
        seconds = frames / self.sample_rate_hz
        self._odd.append(
            f"from {seconds:.3f} s on it has {rate} Hz and {channels} channels, "
            f"converted to {self.sample_rate_hz} Hz and {self.channels}"
        )

    def _check_length(self, frames: int) -> None:
        declared = self.declared_frames or 0
        if frames == 0:
            raise damaged(self.path, "no samples in it")
        if 2 * frames < declared:
            raise audio_error(
                self.path,
                f"only {frames} of {declared} frames can be read, less than half",
                COPY_AGAIN,
            )
        if frames < declared - self._stream.slack_frames:
            self._is_short = True
            self._odd.append(f"{frames} of {declared} declared frames can be read")


@contextmanager
def open_song(path: str | os.PathLike[str]) -> Iterator[SongReader]:
    """Open a song for reading in blocks; memory does not grow with its length.

    Raises ``AudioError`` when the file is missing, unreadable, empty, of an unsupported kind,
    without decodable audio, or has more than two channels.
    """
    path = Path(path)
    with open_stream(path, *first_bytes(path)) as stream:
        check_channels(path, stream.channels)
        yield SongReader(path, stream)

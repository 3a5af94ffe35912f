"""Decode one song into an array file."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from songcast.audio.conversion import Samples, resampled
from songcast.audio.formats import audio_error
from songcast.audio.reading import SongReader


def decode(
    reader: SongReader, blocks: Iterable[Samples], target: Path, sample_rate_hz: int
) -> dict[str, Any]:
    """Resample the ``blocks`` of an open song into the array file ``target``, in a stream.

    Returns the fields of ``PreparedSong`` that decoding tells. Raises ``AudioError``.
    """
    frames = peak = 0
    channels = reader.channels
    with target.open("wb") as file:
        _write_header(file, 0, channels)
        for block in resampled(blocks, reader.sample_rate_hz, sample_rate_hz, channels):
            if len(block):
                peak = max(peak, int(block.max()), -int(block.min()))
            frames += len(block)
            file.write(np.ascontiguousarray(block, "<i2").data)
        if frames == 0:
            raise audio_error(
                reader.path, f"is too short for {sample_rate_hz} Hz", "use a longer song"
            )
        file.seek(0)
        _write_header(file, frames, channels)
    return {
        "source_sample_rate_hz": reader.sample_rate_hz,
        "frames": frames,
        "channels": channels,
        "peak": peak,
        "damage": reader.damage,
    }


def _write_header(file: BinaryIO, frames: int, channels: int) -> None:
    """Write the header; numpy leaves room for a growing first axis, so its length is constant."""
    header = {"descr": "<i2", "fortran_order": False, "shape": (frames, channels)}
    np.lib.format.write_array_header_1_0(file, header)

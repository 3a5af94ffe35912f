"""Decode one song into an array file: the part of prepare that runs in many processes."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from songcast.audio.conversion import resampled
from songcast.audio.formats import audio_error, printable
from songcast.audio.reading import open_song
from songcast.data.corpus import PreparedSong
from songcast.errors import AudioError, CorpusError


@dataclass(frozen=True, kw_only=True)
class Task:
    """A song's file, where its array goes, and the known part of its description."""

    source: Path
    target: Path
    planned: PreparedSong


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A song that cannot be decoded, and the one-line reason."""

    slug: str
    line: str


def decode_task(task: Task) -> PreparedSong | Failure:
    """Decode one song, in any process. Raises ``CorpusError`` for a full disk."""
    try:
        return decode(task.source, task.target, task.planned)
    except AudioError as error:
        task.target.unlink(missing_ok=True)
        return Failure(slug=task.planned.slug, line=str(error))
    except OSError as error:
        raise CorpusError(disk_line(error, task.target)) from error


def decode(source: Path, target: Path, planned: PreparedSong) -> PreparedSong:
    """Decode and resample ``source`` to the array file ``target``, in a stream.

    Returns the song with its source rate, frames, channels, peak and damage. The file is
    complete, but not yet flushed to the disk: see ``resume_log``.
    """
    frames = peak = 0
    rate = planned.sample_rate_hz
    with open_song(source) as reader, target.open("wb") as file:
        channels = reader.channels
        _write_header(file, 0, channels)
        for block in resampled(reader.blocks(), reader.sample_rate_hz, rate, channels):
            if len(block):
                peak = max(peak, int(block.max()), -int(block.min()))
            frames += len(block)
            file.write(np.ascontiguousarray(block, "<i2").data)
        if frames == 0:
            raise audio_error(source, f"is too short for {rate} Hz", "use a longer song")
        file.seek(0)
        _write_header(file, frames, channels)
    return replace(
        planned,
        source_sample_rate_hz=reader.sample_rate_hz,
        frames=frames,
        channels=channels,
        peak=peak,
        damage=reader.damage,
    )


def _write_header(file: BinaryIO, frames: int, channels: int) -> None:
    """Write the header; numpy leaves room for a growing first axis, so its length is constant."""
    header = {"descr": "<i2", "fortran_order": False, "shape": (frames, channels)}
    np.lib.format.write_array_header_1_0(file, header)


def disk_line(error: OSError, place: Path) -> str:
    """Return the system's error in one line; ``place`` stands in for a missing file name."""
    where = printable(Path(error.filename)) if error.filename else str(place)
    return f"{where}: {error.strerror}; check space and permissions"

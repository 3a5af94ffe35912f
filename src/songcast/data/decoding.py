"""Decoding one song into an array file: what prepare does, song by song, in many processes."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from songcast.audio.formats import audio_error, shown
from songcast.audio.resampling import resampled
from songcast.audio.songs import open_song
from songcast.data.corpus import PreparedSong
from songcast.errors import AudioError, CorpusError


@dataclass(frozen=True, kw_only=True)
class Task:
    """A song's file, where its array goes, and what is known of it before."""

    source: Path
    target: Path
    planned: PreparedSong


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """A song whose array is whole, and how many samples were clipped."""

    song: PreparedSong
    clipped: int


@dataclass(frozen=True, kw_only=True)
class Bad:
    """A song that cannot be decoded, and the line that says why."""

    slug: str
    line: str


def decode_task(task: Task) -> Decoded | Bad:
    """Decode one song, in whatever process. A full disk ends the run, a bad song does not."""
    try:
        song, clipped = decode(task.source, task.target, task.planned)
    except AudioError as error:
        task.target.unlink(missing_ok=True)
        return Bad(slug=task.planned.slug, line=str(error))
    except OSError as error:
        raise CorpusError(disk_line(error, task.target)) from error
    return Decoded(song=song, clipped=clipped)


def decode(source: Path, target: Path, planned: PreparedSong) -> tuple[PreparedSong, int]:
    """Decode and resample ``source`` to the array file ``target``, in a stream.

    Returns the song with its format, frames and peak, and the number of clipped samples. The
    file is whole, but not yet safe from a power cut: see ``finished``.
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
    song = replace(
        planned,
        source_sample_rate_hz=reader.sample_rate_hz,
        frames=frames,
        channels=channels,
        peak=peak,
    )
    return song, reader.clipped


def _write_header(file: BinaryIO, frames: int, channels: int) -> None:
    """numpy leaves room for a growing first axis: the header's length does not change."""
    header = {"descr": "<i2", "fortran_order": False, "shape": (frames, channels)}
    np.lib.format.write_array_header_1_0(file, header)


def disk_line(error: OSError, place: Path) -> str:
    """Say in one line what the disk refused: ``place`` where the error does not say."""
    where = shown(Path(error.filename)) if error.filename else str(place)
    return f"{where}: {error.strerror}; check space and permissions"

"""prepare: every song in data/ becomes an int16 array in prepared/, with its splits in time.

Nothing in prepared/ changes before every song has been decoded. The order of publication makes
a kill at any moment harmless: songs.json first forgets what is about to change, then arrays are
renamed into place, then songs.json names them. What songs.json names is always whole.
"""

import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import BinaryIO

import numpy as np

from songcast.audio import SONG_SUFFIXES, open_song, resampled
from songcast.containers import audio_error, shown
from songcast.corpus import (
    INDEX,
    TEST,
    TRAIN,
    VALIDATION,
    PreparedSong,
    Splits,
    has_array,
    read_index,
    split_frames,
    write_index,
)
from songcast.errors import CorpusError, ParamsError
from songcast.files import TEMPORARY_PREFIX, sha256_of_file, sync_folder
from songcast.params import Params, PrepareParams
from songcast.paths import DATA, PARAMS, PREPARED, root
from songcast.slugs import slugs
from songcast.stages import run_stage

INCOMING = ".incoming"
_NOT_SONGS = ("licences", "licenses", "SHA256SUMS")

log = logging.getLogger("songcast.prepare")


def main() -> None:
    """Bring prepared/ up to date with data/ and params.yaml."""
    home = root()
    prepare(home / DATA, home / PREPARED, Params.load(home / PARAMS).prepare)


def prepare(data: Path, prepared: Path, settings: PrepareParams) -> None:
    """Decode the new and changed songs of ``data``, publish them, forget the removed ones.

    Raises ``AudioError`` or ``CorpusError`` before anything in ``prepared`` has changed.
    """
    sources = find_songs(data)
    wanted = slugs(source.name for source in sources)
    check_held_out(settings.held_out, wanted)
    existed = prepared.exists()
    try:
        plan = _plan(sources, wanted, prepared, settings.sample_rate_hz)
        songs = [*plan.kept, *_decode_all(plan.new, prepared / INCOMING)]
        songs = [replace(song, splits=splits_of(song, settings)) for song in songs]
        _publish(prepared, settings.sample_rate_hz, plan.kept, songs)
    except OSError as error:
        where = shown(Path(error.filename)) if error.filename else str(prepared)
        raise CorpusError(f"{where}: {error.strerror}; check space and permissions") from error
    finally:
        shutil.rmtree(prepared / INCOMING, ignore_errors=True)
        if not existed and prepared.exists() and not any(prepared.iterdir()):
            prepared.rmdir()
    log.info(
        "%d songs: %d decoded, %d as before, %d removed",
        *(len(songs), len(plan.new), len(plan.kept), plan.removed),
    )


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """Songs whose arrays stay, songs to decode with their files, and how many vanish."""

    kept: list[PreparedSong]
    new: list[tuple[Path, PreparedSong]]
    removed: int


def _plan(
    sources: list[Path], wanted: Mapping[str, str], prepared: Path, sample_rate_hz: int
) -> _Plan:
    """Compare the files with what songs.json knows; opens every file that is to be decoded."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        digests = list(pool.map(sha256_of_file, sources))
    warn_of_copies(sources, digests)
    known = _reusable(prepared, sample_rate_hz)
    plan = _Plan(kept=[], new=[], removed=len(known.keys() - wanted.values()))
    for source, digest in zip(sources, digests, strict=True):
        slug = wanted[source.name]
        if slug in known and known[slug].sha256 == digest:
            plan.kept.append(replace(known[slug], source=shown(Path(source.name))))
        else:
            array = prepared / f"{slug}.npy"
            plan.new.append((source, _planned(source, digest, array, sample_rate_hz)))
    return plan


def find_songs(data: Path) -> list[Path]:
    """Return the songs in ``data``, by name; says what it passes over. Raises ``CorpusError``."""
    if not data.is_dir():
        raise CorpusError(f"{data}: there is no such folder; run `dvc pull` or put songs there")
    songs = []
    for path in sorted(data.iterdir(), key=lambda path: path.name):
        if path.suffix.lower() in SONG_SUFFIXES and not path.name.startswith("."):
            songs.append(path)
        elif path.name.startswith(".") or path.name in _NOT_SONGS or path.suffix in (".md", ".txt"):
            continue
        elif path.is_dir():
            log.warning("%s: folders are passed over; move its songs into %s", shown(path), data)
        else:
            log.warning("%s: passed over, not one of %s", shown(path), " ".join(SONG_SUFFIXES))
    if not songs:
        raise CorpusError(f"{data}: no songs; add one of {' '.join(SONG_SUFFIXES)}")
    return songs


def check_held_out(held_out: tuple[str, ...], wanted: Mapping[str, str]) -> None:
    """Raise ``ParamsError`` for a held-out name that is neither a file nor a slug."""
    for name in held_out:
        if name not in wanted and name not in wanted.values():
            raise ParamsError(
                f"params.yaml: prepare.held_out names {name!r}, which is not a song; "
                f"allowed: {', '.join(sorted(wanted.values()))}"
            )


def warn_of_copies(sources: list[Path], digests: list[str]) -> None:
    """Say which files are the same song: a copy in training betrays a held-out original."""
    first: dict[str, str] = {}
    for source, digest in zip(sources, digests, strict=True):
        other = first.setdefault(digest, source.name)
        if other != source.name:
            log.warning("%s and %s are the same file; remove one", other, source.name)


def splits_of(song: PreparedSong, settings: PrepareParams) -> Splits:
    """Return the splits of a song: a held-out one is all test."""
    if song.slug in settings.held_out or song.source in settings.held_out:
        return {TEST: (0, song.frames)}
    fractions = {
        TRAIN: settings.train_fraction,
        VALIDATION: settings.validation_fraction,
        TEST: settings.test_fraction,
    }
    return split_frames(song.frames, song.sample_rate_hz, fractions, settings.guard_seconds)


def _reusable(prepared: Path, sample_rate_hz: int) -> dict[str, PreparedSong]:
    """Return the songs of an earlier run, by slug, whose arrays can stay."""
    try:
        _, songs = read_index(prepared)
    except CorpusError:
        return {}
    return {s.slug: s for s in songs if s.sample_rate_hz == sample_rate_hz and has_array(s)}


def _planned(source: Path, digest: str, array: Path, sample_rate_hz: int) -> PreparedSong:
    """Read the song's header: an unreadable song is known before any song is decoded."""
    with open_song(source) as reader:
        return PreparedSong(
            slug=array.stem,
            source=shown(Path(source.name)),
            sha256=digest,
            source_sample_rate_hz=reader.sample_rate_hz,
            sample_rate_hz=sample_rate_hz,
            frames=0,
            channels=reader.channels,
            peak=0,
            splits={},
            path=array,
        )


def _decode_all(new: list[tuple[Path, PreparedSong]], incoming: Path) -> list[PreparedSong]:
    """Decode the planned songs into the folder ``incoming``, one per core at a time."""
    shutil.rmtree(incoming, ignore_errors=True)
    incoming.mkdir(parents=True)
    done: list[PreparedSong] = []
    stop = Event()
    # Threads suffice: libsndfile, soxr and ffmpeg work without Python's lock.
    with _progress(bool(new)) as (advance, say), ThreadPoolExecutor(os.cpu_count()) as pool:

        def heard(seconds: float) -> None:
            if stop.is_set():
                raise InterruptedError("stopped")
            advance(seconds)

        tasks = [
            pool.submit(decode, source, incoming / song.path.name, song, heard)
            for source, song in new
        ]
        try:
            for (source, _), task in zip(new, tasks, strict=True):
                song, clipped = task.result()
                done.append(song)
                say(_line(song))
                if clipped:
                    say(f"{shown(source)}: {clipped} samples beyond full scale were clipped")
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return done


def decode(
    source: Path, target: Path, planned: PreparedSong, heard: Callable[[float], None]
) -> tuple[PreparedSong, int]:
    """Decode and resample ``source`` to the array file ``target``, in a stream.

    Returns the song with its frames and peak, and the number of clipped samples. ``heard`` is
    told the seconds of every block.
    """
    frames = peak = 0
    rate, channels = planned.sample_rate_hz, planned.channels
    with open_song(source) as reader, target.open("wb") as file:
        _write_header(file, 0, channels)
        for block in resampled(reader.blocks(), reader.sample_rate_hz, rate, channels):
            if len(block):
                peak = max(peak, int(block.max()), -int(block.min()))
            frames += len(block)
            file.write(np.ascontiguousarray(block, "<i2").data)
            heard(len(block) / rate)
        if frames == 0:
            raise audio_error(source, f"is too short for {rate} Hz", "use a longer song")
        file.seek(0)
        _write_header(file, frames, channels)
        file.flush()
        os.fsync(file.fileno())
    return replace(planned, frames=frames, peak=peak), reader.clipped


def _write_header(file: BinaryIO, frames: int, channels: int) -> None:
    """numpy leaves room for a growing first axis: the header's length does not change."""
    header = {"descr": "<i2", "fortran_order": False, "shape": (frames, channels)}
    np.lib.format.write_array_header_1_0(file, header)


def _publish(
    prepared: Path, sample_rate_hz: int, kept: list[PreparedSong], songs: list[PreparedSong]
) -> None:
    """Move the decoded arrays into place; see the head of this file for the order."""
    arrays = {song.path.name for song in songs}
    incoming = list((prepared / INCOMING).iterdir())
    stale = [path for path in prepared.glob("*.npy") if path.name not in arrays]
    if (incoming or stale) and (prepared / INDEX).exists():
        write_index(prepared, sample_rate_hz, kept)
    for path in incoming:
        path.replace(prepared / path.name)
    for path in [*stale, *prepared.glob(f"{TEMPORARY_PREFIX}*")]:
        path.unlink()
    sync_folder(prepared)
    write_index(prepared, sample_rate_hz, songs)


def _line(song: PreparedSong) -> str:
    rate = f"{song.source_sample_rate_hz} Hz"
    if song.source_sample_rate_hz != song.sample_rate_hz:
        rate += f" -> {song.sample_rate_hz} Hz"
    channels = {1: "mono", 2: "stereo"}[song.channels]
    seconds = song.frames / song.sample_rate_hz
    return f"{shown(Path(song.source))} -> {song.slug}: {seconds:.1f} s, {channels}, {rate}"


@contextmanager
def _progress(wanted: bool) -> Iterator[tuple[Callable[[float], None], Callable[[str], None]]]:
    """Give a function that counts seconds of song, and one that says a line.

    On a terminal the lines scroll above a counter; elsewhere they are log lines.
    """
    if not (wanted and sys.stderr.isatty()):
        yield (lambda _: None), log.info
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = SpinnerColumn(), TextColumn("decoded {task.completed:.0f} s"), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("decode", total=None)
        yield (
            lambda seconds: progress.advance(task, seconds),
            lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True),
        )


if __name__ == "__main__":
    run_stage(main)

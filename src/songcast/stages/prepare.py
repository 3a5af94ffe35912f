"""prepare: every song in data/ becomes an int16 array in prepared/, with its splits in time.

Nothing in prepared/ changes before every song has been decoded. Finished arrays wait in
``.incoming`` beside the list of them: a run that was killed, or that met a bad song, is taken up
where it stopped. The order of publication makes a kill at any moment harmless: songs.json first
forgets what is about to change, then arrays are renamed into place, then songs.json names them.
What songs.json names is always whole.
"""

import logging
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from songcast.audio.formats import check_regular, shown
from songcast.audio.songs import SONG_SUFFIXES
from songcast.config import Engine
from songcast.data.corpus import (
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
from songcast.data.decoding import Bad, Task, decode_task, disk_line
from songcast.data.digests import digests_of
from songcast.data.resume_log import Finished
from songcast.data.slugs import slugs
from songcast.distributed.engine import each, wake
from songcast.errors import AudioError, CorpusError, ParamsError
from songcast.files import CHECKPOINTS, DATA, PARAMS, PREPARED, TEMPORARY_PREFIX, root, sync_folder
from songcast.stages import run_stage

if TYPE_CHECKING:
    from songcast.config import PrepareParams

INCOMING = ".incoming"
_NOT_SONGS = ("licences", "licenses", "SHA256SUMS")

log = logging.getLogger("songcast.prepare")


def main() -> None:
    """Bring prepared/ up to date with data/ and params.yaml."""
    wake(decode_task)
    from songcast.config import Params

    home = root()
    params = Params.load(home / PARAMS)
    prepare(home / DATA, home / PREPARED, params.prepare, params.engine)


def prepare(
    data: Path, prepared: Path, settings: "PrepareParams", engine: Engine = "local"
) -> None:
    """Decode the new and changed songs of ``data``, publish them, forget the removed ones.

    Raises ``AudioError``, when all good songs are decoded, or ``CorpusError``, before anything
    in ``prepared`` has changed but ``.incoming``.
    """
    sources = find_songs(data)
    wanted = slugs(source.name for source in sources)
    check_held_out(settings.held_out, wanted)
    try:
        plan = _plan(sources, wanted, prepared, settings.sample_rate_hz)
        with Finished(prepared / INCOMING) as finished:
            decoded = _decode_all(plan.new, finished, engine)
        arrays = {finished.place(song): song.path for song in decoded}
        songs = [replace(s, splits=splits_of(s, settings)) for s in [*plan.kept, *decoded]]
        _publish(prepared, settings.sample_rate_hz, arrays, plan.kept, songs)
    except OSError as error:
        raise CorpusError(disk_line(error, prepared)) from error
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
    """Compare the files with what songs.json knows."""
    digests = digests_of(sources, prepared.parent / CHECKPOINTS / "digests.json")
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
    """Return the songs in ``data``, by name; says what it passes over.

    Raises ``CorpusError`` where there are none, ``AudioError`` for a folder or pipe so named.
    """
    if not data.is_dir():
        raise CorpusError(f"{data}: there is no such folder; run `dvc pull` or put songs there")
    songs = []
    for path in sorted(data.iterdir(), key=lambda path: path.name):
        if path.suffix.lower() in SONG_SUFFIXES and not path.name.startswith("."):
            check_regular(path)
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


def splits_of(song: PreparedSong, settings: "PrepareParams") -> Splits:
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
    """Say what is known of a song before it is decoded."""
    return PreparedSong(
        slug=array.stem,
        source=shown(Path(source.name)),
        sha256=digest,
        source_sample_rate_hz=0,
        sample_rate_hz=sample_rate_hz,
        frames=0,
        channels=0,
        peak=0,
        splits={},
        path=array,
    )


def _decode_all(
    new: list[tuple[Path, PreparedSong]], finished: Finished, engine: Engine
) -> list[PreparedSong]:
    """Decode the planned songs to where ``finished`` says, but those that it has already."""
    done = [song for _, planned in new if (song := finished.get(planned))]
    if done:
        log.info("%d songs were decoded before the last run stopped", len(done))
    names = {song.slug for song in done}
    tasks = [
        Task(source=source, target=finished.place(planned), planned=planned)
        for source, planned in new
        if planned.slug not in names
    ]
    bad: dict[str, str] = {}
    with _progress(len(tasks)) as (advance, say):
        for outcome in each(engine, decode_task, tasks):
            advance()
            if isinstance(outcome, Bad):
                bad[outcome.slug] = outcome.line
                continue
            song = outcome.song
            finished.add(song)
            done.append(song)
            say(_line(song))
            if outcome.clipped:
                say(f"{song.source}: {outcome.clipped} samples beyond full scale were clipped")
    if bad:
        raise AudioError(_bad_line([bad[p.slug] for _, p in new if p.slug in bad]))
    return done


def _publish(
    prepared: Path,
    sample_rate_hz: int,
    arrays: Mapping[Path, Path],
    kept: list[PreparedSong],
    songs: list[PreparedSong],
) -> None:
    """Move the decoded arrays into place; see the head of this file for the order."""
    named = {song.path.name for song in songs}
    stale = [path for path in prepared.glob("*.npy") if path.name not in named]
    if (arrays or stale) and (prepared / INDEX).exists():
        write_index(prepared, sample_rate_hz, kept)
    for decoded, place in arrays.items():
        decoded.replace(place)
    for path in [*stale, *prepared.glob(f"{TEMPORARY_PREFIX}*")]:
        path.unlink()
    sync_folder(prepared)
    write_index(prepared, sample_rate_hz, songs)
    shutil.rmtree(prepared / INCOMING)


def _bad_line(lines: list[str]) -> str:
    """Say all bad songs in one line, the first by name in full."""
    more = [line.partition(": ")[0] for line in lines[1:]]
    return lines[0] + (f" (and {len(more)} more: {', '.join(more)})" if more else "")


def _line(song: PreparedSong) -> str:
    rate = f"{song.source_sample_rate_hz} Hz"
    if song.source_sample_rate_hz != song.sample_rate_hz:
        rate += f" -> {song.sample_rate_hz} Hz"
    channels = {1: "mono", 2: "stereo"}[song.channels]
    seconds = song.frames / song.sample_rate_hz
    return f"{shown(Path(song.source))} -> {song.slug}: {seconds:.1f} s, {channels}, {rate}"


@contextmanager
def _progress(songs: int) -> Iterator[tuple[Callable[[], None], Callable[[str], None]]]:
    """Give a function that counts one song, and one that says a line.

    On a terminal the lines scroll above a bar; elsewhere they are log lines.
    """
    if not (songs and sys.stderr.isatty()):
        yield (lambda: None), log.info
        return
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("decode", total=songs)
        yield (
            lambda: progress.advance(task),
            lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True),
        )


if __name__ == "__main__":
    run_stage(main)

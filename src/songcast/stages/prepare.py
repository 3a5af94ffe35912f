"""Stage prepare: decode every song in data/ to an int16 array in prepared/, and split it in time.

Nothing in prepared/ changes before every song is decoded. Decoded arrays are kept in ``.incoming``
with a resume log: a run that was killed, or that met a bad song, resumes where it stopped. Then
songs.json drops the songs that change, arrays are renamed into place, and songs.json names them:
after a kill at any moment, every array that songs.json names is complete.
"""

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from songcast.audio.formats import SONG_SUFFIXES, check_regular, printable
from songcast.config import Engine
from songcast.data.code_digest import code_digest
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
from songcast.data.decoding import Failure, Task, decode_task, disk_line
from songcast.data.digests import digests_of
from songcast.data.resume_log import ResumeLog
from songcast.data.slugs import slugs
from songcast.distributed.engine import each
from songcast.errors import AudioError, CorpusError, ParamsError
from songcast.files import (
    CHECKPOINTS,
    DATA,
    DATA_REPORT,
    PARAMS,
    PREPARED,
    TEMPORARY_PREFIX,
    sync_folder,
    write_json,
    write_text,
)
from songcast.inspection.duplicates import duplicates
from songcast.inspection.report import (
    InspectTask,
    check_leaks,
    data_report,
    headline,
    inspect_task,
    read_inspected,
)
from songcast.report.console import progress
from songcast.stages import run_stage

if TYPE_CHECKING:
    from songcast.config import PrepareParams

INCOMING = ".incoming"
# The modules that decode: a change of their code makes all arrays anew.
CODE = ("songcast.data.decoding",)
# The modules that measure songs for the data report.
REPORT_CODE = ("songcast.inspection.report",)
INSPECTED = "inspected"
# So many are logged; all are in the data report.
MOST_WARNINGS = 10
_NOT_SONGS = ("licences", "licenses", "SHA256SUMS")

log = logging.getLogger("songcast.prepare")


def main() -> None:
    """Bring prepared/ up to date with data/ and params.yaml; log the data report to MLflow."""
    from songcast.config import Params
    from songcast.tracking.stage_run import stage_run

    home = Path.cwd()
    params = Params.load(home / PARAMS)
    report = prepare(home / DATA, home / PREPARED, params.prepare, params.engine)
    # Only now, because the datasets of a run are those of prepared/.
    with stage_run("prepare", params.prepare.model_dump(mode="json")) as run:
        run.log_metrics(headline(report), 0)
        run.log_artifact(home / DATA_REPORT)


def prepare(
    data: Path, prepared: Path, settings: "PrepareParams", engine: Engine = "local"
) -> dict[str, Any]:
    """Decode the new and changed songs of ``data``, publish them, forget the removed ones.

    Returns the data report, which it writes to metrics/data.json.

    Raises ``AudioError`` for songs that cannot be used, after all others are decoded, or
    ``CorpusError``. Nothing in ``prepared`` but ``.incoming`` has changed then.
    """
    sources, problems = find_songs(data)
    wanted = slugs(source.name for source in sources)
    check_held_out(settings.held_out, wanted)
    try:
        code = code_digest(*CODE)
        made_by = prepared.parent / CHECKPOINTS / "prepared_by"
        plan = _plan(sources, wanted, prepared, settings.sample_rate_hz, _read(made_by) == code)
        with ResumeLog(prepared / INCOMING, code) as resume_log:
            decoded, failures = _decode_all(plan.new, resume_log, engine)
        problems += failures + _report_damage(decoded, plan.kept, settings.on_damage)
        if problems:
            raise _all_problems(problems, data)
        arrays = {resume_log.place(song): song.path for song in decoded}
        songs = [replace(s, splits=splits_of(s, settings)) for s in [*plan.kept, *decoded]]
        files = {wanted[source.name]: source for source in sources}
        report = inspect_all(files, prepared, songs, settings, engine)
        _publish(prepared, settings.sample_rate_hz, arrays, plan.kept, songs)
        write_text(made_by, code)
        write_json(prepared.parent / DATA_REPORT, report)
    except OSError as error:
        raise CorpusError(disk_line(error, prepared)) from error
    log.info(
        "%d songs: %d decoded, %d as before, %d removed",
        *(len(songs), len(plan.new), len(plan.kept), plan.removed),
    )
    return report


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """Songs whose arrays stay, songs to decode with their files, and how many vanish."""

    kept: list[PreparedSong]
    new: list[tuple[Path, PreparedSong]]
    removed: int


def _plan(
    sources: list[Path],
    wanted: Mapping[str, str],
    prepared: Path,
    sample_rate_hz: int,
    reuse: bool,
) -> _Plan:
    """Compare the files with songs.json; ``reuse``: whether its arrays are of the present code."""
    digests = digests_of(sources, prepared.parent / CHECKPOINTS / "digests.json")
    warn_about_copies(sources, digests)
    known = _reusable(prepared, sample_rate_hz)
    plan = _Plan(kept=[], new=[], removed=len(known.keys() - wanted.values()))
    known = known if reuse else {}
    for source, digest in zip(sources, digests, strict=True):
        slug = wanted[source.name]
        if slug in known and known[slug].sha256 == digest:
            plan.kept.append(replace(known[slug], source=printable(Path(source.name))))
        else:
            array = prepared / f"{slug}.npy"
            plan.new.append((source, _planned(source, digest, array, sample_rate_hz)))
    return plan


def find_songs(data: Path) -> tuple[list[Path], list[str]]:
    """Return the songs in ``data``, by name, and one line per folder or pipe named like a song.

    Logs which files it passes over. Raises ``CorpusError`` without any song.
    """
    if not data.is_dir():
        raise CorpusError(f"{data}: there is no such folder; run `dvc pull` or put songs there")
    songs, problems = [], []
    for path in sorted(data.iterdir(), key=lambda path: path.name):
        if path.suffix.lower() in SONG_SUFFIXES and not path.name.startswith("."):
            try:
                check_regular(path)
            except AudioError as error:
                problems.append(str(error))
            else:
                songs.append(path)
        elif path.name.startswith(".") or path.name in _NOT_SONGS or path.suffix in (".md", ".txt"):
            continue
        elif path.is_dir():
            log.warning(
                "%s: folders are passed over; move its songs into %s", printable(path), data
            )
        else:
            log.warning("%s: passed over, not one of %s", printable(path), " ".join(SONG_SUFFIXES))
    if not songs and problems:
        raise _all_problems(problems, data)
    if not songs:
        raise CorpusError(f"{data}: no songs; add one of {' '.join(SONG_SUFFIXES)}")
    return songs, problems


def check_held_out(held_out: tuple[str, ...], wanted: Mapping[str, str]) -> None:
    """Raise ``ParamsError`` for a held-out name that is neither a file nor a slug."""
    for name in held_out:
        if name not in wanted and name not in wanted.values():
            raise ParamsError(
                f"params.yaml: prepare.held_out names {name!r}, which is not a song; "
                f"allowed: {', '.join(sorted(wanted.values()))}"
            )


def inspect_all(
    files: Mapping[str, Path],
    prepared: Path,
    songs: list[PreparedSong],
    settings: "PrepareParams",
    engine: Engine,
) -> dict[str, Any]:
    """Return the data report, and log its warnings; only new files are measured.

    ``files``: slug to the song's file.

    Raises ``CorpusError`` for a leak between splits, where ``prepare.on_leak`` is ``fail``.
    """
    songs = sorted(songs, key=lambda song: song.slug)
    folder, code = prepared.parent / CHECKPOINTS / INSPECTED, code_digest(*REPORT_CODE)[:16]
    folder.mkdir(parents=True, exist_ok=True)
    places = {song.slug: folder / f"{song.sha256[:32]}-{code}.json" for song in songs}
    found = {slug: read_inspected(place) for slug, place in places.items()}
    missing = [slug for slug, measured in found.items() if measured is None]
    # Equal files have one place.
    tasks = {places[s]: InspectTask(source=files[s], target=places[s]) for s in missing}
    with progress("inspect", len(tasks), "songs") as update:
        for error in each(engine, inspect_task, list(tasks.values())):
            update(advance=1)
            if error:
                raise error
    for path in set(folder.iterdir()) - set(places.values()):
        path.unlink()
    found |= {slug: read_inspected(places[slug]) for slug in missing}
    measured = {slug: entry for slug, entry in found.items() if entry}
    seconds = {
        song.slug: {
            split: (start / song.sample_rate_hz, stop / song.sample_rate_hz)
            for split, (start, stop) in song.splits.items()
        }
        for song in songs
    }
    pairs = duplicates({slug: items for slug, (_, items) in measured.items()}, seconds)
    if settings.on_leak == "fail":
        check_leaks(pairs)
    report = data_report({slug: e for slug, (e, _) in measured.items()}, pairs, settings.expect)
    reported = {f"{slug}: {entry['damage']}" for slug, entry in report["songs"].items()}
    lines = [line for line in report["warnings"] if line not in reported]  # by _report_damage
    for line in lines[:MOST_WARNINGS]:
        log.warning("warning: %s", line)
    if len(lines) > MOST_WARNINGS:
        rest = len(lines) - MOST_WARNINGS
        log.warning("%d more warnings are in %s", rest, DATA_REPORT)
    return report


def warn_about_copies(sources: list[Path], digests: list[str]) -> None:
    """Warn about identical files: a copy in training would leak a held-out song."""
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


def _read(path: Path) -> str | None:
    return path.read_text() if path.is_file() else None


def _reusable(prepared: Path, sample_rate_hz: int) -> dict[str, PreparedSong]:
    """Return the songs of an earlier run, by slug, whose arrays can stay."""
    try:
        _, songs = read_index(prepared)
    except CorpusError:
        return {}
    return {s.slug: s for s in songs if s.sample_rate_hz == sample_rate_hz and has_array(s)}


def _planned(source: Path, digest: str, array: Path, sample_rate_hz: int) -> PreparedSong:
    """Return the description of a song before it is decoded."""
    return PreparedSong(
        slug=array.stem,
        source=printable(Path(source.name)),
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
    new: list[tuple[Path, PreparedSong]], finished: ResumeLog, engine: Engine
) -> tuple[list[PreparedSong], list[str]]:
    """Decode the planned songs that ``finished`` does not list yet.

    Returns all decoded songs, and one line per song that cannot be decoded.
    """
    done = [song for _, planned in new if (song := finished.get(planned))]
    if done:
        log.info("%d songs were decoded before the last run stopped", len(done))
    names = {song.slug for song in done}
    tasks = [
        Task(source=source, target=finished.place(planned), planned=planned)
        for source, planned in new
        if planned.slug not in names
    ]
    failures: dict[str, str] = {}
    with progress("decode", len(tasks), "songs") as update:
        for outcome in each(engine, decode_task, tasks):
            update(advance=1)
            if isinstance(outcome, Failure):
                failures[outcome.slug] = outcome.line
            else:
                finished.add(outcome)
                done.append(outcome)
                log.info(_line(outcome))
    return done, [failures[song.slug] for _, song in new if song.slug in failures]


def _report_damage(
    decoded: list[PreparedSong], kept: list[PreparedSong], on_damage: str
) -> list[str]:
    """Log a warning per damaged song; where ``on_damage`` is ``fail``, return them as problems."""
    if on_damage == "fail":
        advice = "replace it, or set prepare.on_damage to warn"
        return [f"{s.source}: {s.damage}; {advice}" for s in [*kept, *decoded] if s.damage]
    for song in decoded:
        if song.damage:
            log.warning("warning: %s: %s", song.source, song.damage)
    return []


def _all_problems(lines: list[str], data: Path) -> AudioError:
    """Return the error for all songs that cannot be used: one line, after logging several."""
    if len(lines) == 1:
        return AudioError(lines[0])
    for line in lines:
        log.error("%s", line)
    return AudioError(
        f"{data}: {len(lines)} songs cannot be used, see above; replace or remove them"
    )


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


def _line(song: PreparedSong) -> str:
    rate = f"{song.source_sample_rate_hz} Hz"
    if song.source_sample_rate_hz != song.sample_rate_hz:
        rate += f" -> {song.sample_rate_hz} Hz"
    channels = {1: "mono", 2: "stereo"}[song.channels]
    seconds = song.frames / song.sample_rate_hz
    return f"{printable(Path(song.source))} -> {song.slug}: {seconds:.1f} s, {channels}, {rate}"


if __name__ == "__main__":
    run_stage(main)

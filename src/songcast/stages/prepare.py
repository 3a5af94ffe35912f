"""Stage prepare: decode every song in data/ to an int16 array in prepared/, and split it in time.

Nothing in prepared/ changes before every song is decoded. Decoded arrays are kept in ``.incoming``
under the digests of song and code: a run that was killed, or that met a bad song, resumes where it
stopped. Then songs.json drops the songs that change, arrays are renamed into place, and songs.json
names them: after a kill at any moment, every array that songs.json names is complete.
"""

import logging
import shutil
import time
from collections.abc import Collection, Container, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from songcast.audio.formats import SONG_SUFFIXES, check_regular, printable
from songcast.config import Engine, Params, PrepareParams
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
from songcast.data.digests import digests_of
from songcast.data.slugs import slugs
from songcast.distributed.engine import each
from songcast.errors import AudioError, CorpusError, ParamsError
from songcast.files import (
    CHECKPOINTS,
    DATA,
    DATA_REPORT,
    PARAMS,
    PREPARED,
    sweep,
    sync_folder,
    write_json,
    write_text,
)
from songcast.inspection.duplicates import duplicates
from songcast.inspection.report import (
    DecodeTask,
    check_leaks,
    data_report,
    decode_task,
    headline,
    read_record,
)
from songcast.report.console import progress
from songcast.stages import run_stage
from songcast.tracking.stage_run import stage_run

INCOMING = ".incoming"
# The modules that decode and measure songs: a change of their code makes all arrays anew.
CODE = ("songcast.inspection.report",)
INSPECTED = "inspected"
# So many are logged; all are in the data report.
MOST_WARNINGS = 10
_NOT_SONGS = ("licences", "licenses", "SHA256SUMS")

log = logging.getLogger("songcast.prepare")


def main() -> None:
    """Bring prepared/ up to date with data/ and params.yaml; log the data report to MLflow."""
    home, start_ms = Path.cwd(), round(time.time() * 1000)
    params = Params.load(home / PARAMS)
    report = prepare(home / DATA, home / PREPARED, params.prepare, params.engine)
    # Only now, because the datasets of a run are those of prepared/.
    values = params.prepare.model_dump(mode="json")
    with stage_run("prepare", values, start_ms=start_ms) as run:
        run.log_metrics(headline(report), 0)
        run.log_artifact(home / DATA_REPORT)


def prepare(
    data: Path, prepared: Path, settings: PrepareParams, engine: Engine = "local"
) -> dict[str, Any]:
    """Decode the new and changed songs of ``data``, publish them, forget the removed ones.

    Returns the data report, which it writes to metrics/data.json.

    Raises ``AudioError`` for songs that cannot be used, after all others are decoded, or
    ``CorpusError``. Nothing in ``prepared`` but ``.incoming`` has changed then.
    """
    sources, problems = find_songs(data)
    wanted = slugs(source.name for source in sources)
    check_held_out(settings.held_out, wanted)
    checkpoints, rate = prepared.parent / CHECKPOINTS, settings.sample_rate_hz
    made_by = checkpoints / "prepared_by"
    digests = digests_of(sources, checkpoints / "digests.json")
    warn_about_copies(sources, digests)
    code, tasks = code_digest(*CODE), dict[str, DecodeTask]()
    for source, digest in zip(sources, digests, strict=True):
        slug, key = wanted[source.name], f"{digest[:32]}-{rate}-{code[:16]}"
        tasks[slug] = DecodeTask(
            slug=slug,
            source=source,
            sha256=digest,
            sample_rate_hz=rate,
            array=prepared / INCOMING / f"{slug}-{key}.npy",
            record=checkpoints / INSPECTED / f"{key}.json",
        )
    known = {song.slug: song.sha256 for song in _reusable(prepared, rate)}
    is_current = made_by.is_file() and made_by.read_text() == code
    new = {
        slug: task
        for slug, task in tasks.items()
        if not (is_current and known.get(slug) == task.sha256 and task.record.is_file())
    }
    (prepared / INCOMING).mkdir(parents=True, exist_ok=True)
    problems += _decode_all(new.values(), engine)
    records = {
        slug: read_record(task.record)
        for slug, task in tasks.items()
        if task.record.is_file()  # it is missing for a song that cannot be decoded
    }
    songs = [_song(tasks[slug], record, prepared, settings) for slug, record in records.items()]
    problems += _report_damage(songs, new, settings.on_damage)
    if problems:
        raise _all_problems(problems, data)
    report = inspected(songs, records, settings)
    arrays = {task.array: prepared / f"{slug}.npy" for slug, task in new.items()}
    kept = [song for song in songs if song.slug not in new]
    _publish(prepared, rate, arrays, kept, songs)
    write_text(made_by, code)
    write_json(prepared.parent / DATA_REPORT, report)
    for path in {*(checkpoints / INSPECTED).iterdir()} - {t.record for t in tasks.values()}:
        path.unlink()
    log.info(
        "%d songs: %d decoded, %d as before, %d removed",
        *(len(songs), len(new), len(kept), len(known.keys() - tasks.keys())),
    )
    return report


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


def inspected(
    songs: Iterable[PreparedSong],
    records: Mapping[str, Mapping[str, Any]],
    settings: PrepareParams,
) -> dict[str, Any]:
    """Return the data report, and log its warnings. ``records``: by slug, see ``read_record``.

    Raises ``CorpusError`` for a leak between splits, where ``prepare.on_leak`` is ``fail``.
    """
    seconds = {
        song.slug: {
            split: (start / song.sample_rate_hz, stop / song.sample_rate_hz)
            for split, (start, stop) in song.splits.items()
        }
        for song in songs
    }
    slugs = sorted(seconds)
    pairs = duplicates({slug: records[slug]["fingerprint"] for slug in slugs}, seconds)
    if settings.on_leak == "fail":
        check_leaks(pairs)
    report = data_report({slug: records[slug]["entry"] for slug in slugs}, pairs, settings.expect)
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


def _reusable(prepared: Path, sample_rate_hz: int) -> list[PreparedSong]:
    """Return the songs of an earlier run whose arrays can stay."""
    try:
        _, songs = read_index(prepared)
    except CorpusError:
        return []
    return [song for song in songs if song.sample_rate_hz == sample_rate_hz and has_array(song)]


def _decode_all(tasks: Collection[DecodeTask], engine: Engine) -> list[str]:
    """Decode the songs that no earlier run has decoded; return one line for each that fails."""
    waiting = [task for task in tasks if not (task.array.is_file() and task.record.is_file())]
    if len(waiting) < len(tasks):
        done = len(tasks) - len(waiting)
        log.info("%d songs were decoded before the last run stopped", done)
    failures = {}
    with progress("decode", len(waiting), "songs") as update:
        for task, problem in each(engine, decode_task, waiting):
            update(advance=1)
            if problem:
                failures[task] = problem
            else:
                log.info(_line(task))
    return [failures[task] for task in waiting if task in failures]


def _song(
    task: DecodeTask, record: Mapping[str, Any], prepared: Path, settings: PrepareParams
) -> PreparedSong:
    """Return the description of a decoded song."""
    song = PreparedSong(
        slug=task.slug,
        source=printable(Path(task.source.name)),
        sha256=task.sha256,
        sample_rate_hz=task.sample_rate_hz,
        splits={},
        path=prepared / f"{task.slug}.npy",
        **record["song"],
    )
    return replace(song, splits=splits_of(song, settings))


def _report_damage(songs: Iterable[PreparedSong], new: Container[str], on_damage: str) -> list[str]:
    """Log a warning per damaged new song; where ``on_damage`` is ``fail``, all are problems."""
    damaged = [song for song in songs if song.damage]
    if on_damage == "fail":
        advice = "replace it, or set prepare.on_damage to warn"
        return [f"{song.source}: {song.damage}; {advice}" for song in damaged]
    for song in damaged:
        if song.slug in new:
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
    for path in stale:
        path.unlink()
    sweep(prepared)
    sync_folder(prepared)
    write_index(prepared, sample_rate_hz, songs)
    shutil.rmtree(prepared / INCOMING)


def _line(task: DecodeTask) -> str:
    song = read_record(task.record)["song"]
    rate = f"{song['source_sample_rate_hz']} Hz"
    if song["source_sample_rate_hz"] != task.sample_rate_hz:
        rate += f" -> {task.sample_rate_hz} Hz"
    channels = {1: "mono", 2: "stereo"}[song["channels"]]
    seconds = song["frames"] / task.sample_rate_hz
    name = printable(Path(task.source.name))
    return f"{name} -> {task.slug}: {seconds:.1f} s, {channels}, {rate}"


if __name__ == "__main__":
    run_stage(main)

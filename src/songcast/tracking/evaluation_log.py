"""Log the evaluation to the runs of train, retrain and the pipeline: numbers, sounds, pictures.

Means over the held-out passages are metrics; the numbers of each song and each horizon of the
continuation are tables (songs.csv, continuation.csv). Logging the same evaluation again changes
nothing.
"""

import csv
import hashlib
import json
import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from songcast.data.corpus import TEST
from songcast.errors import RegistryError
from songcast.report.results import best_of, bits_per_sample, mean_gain_db
from songcast.tracking.descriptions import NOTE, note_of_pipeline, note_of_run
from songcast.tracking.run_data import MODEL, Row, send_file, send_metrics
from songcast.tracking.runs import ensure_parent
from songcast.tracking.store import session

EVALUATION = "songcast.evaluation_sha256"
KINDS = ("train", "retrain")
SONGS, CONTINUATION = "songs.csv", "continuation.csv"
COMPARED = ("prediction_gain_db", "bits_per_sample")
# The files that each run gets, as patterns; plots/report/ becomes plots/ among its artifacts.
FILES = {
    "train": (
        *("listening/*/original.wav", "listening/*/pred_song.wav", "listening/*/continuation.wav"),
        *("plots/report/learning_train.png", "plots/report/waveforms/*", "plots/report/rhythm/*"),
        *("plots/report/spectrograms/*", "plots/report/residuals/*"),
    ),
    "retrain": (
        *("listening/*/original.wav", "listening/*/pred_song_updated.wav"),
        *("plots/report/learning_retrain.png", "plots/report/forgetting.png"),
    ),
    "pipeline": ("report.html", "plots/report/*.png"),
}


def log_evaluations(evaluation: Mapping[str, Any], folder: Path, runs: Mapping[str, str]) -> None:
    """Log the evaluation to the runs of train and retrain, and to their parent.

    ``evaluation``: the content of metrics/evaluation.json. ``folder``: the one with listening/,
    plots/ and report.html. ``runs``: kind to run id. Raises ``RegistryError`` if a kind was not
    evaluated, ``TrackingError`` if the store cannot be reached.
    """
    with tempfile.TemporaryDirectory() as scratch:
        tables = Path(scratch)
        logs = {kind: evaluation_log(evaluation, kind, folder, tables / kind) for kind in runs}
        for kind, run_id in runs.items():
            log_evaluation(run_id, *logs[kind], note_of_run(evaluation, kind))
        metrics, files = pipeline_log(evaluation, folder, tables)
        log_evaluation(
            ensure_parent(runs.values()), metrics, files, note_of_pipeline(evaluation, runs)
        )


def log_evaluation(
    run_id: str, metrics: Row, files: Mapping[str, Path], description: str = ""
) -> None:
    """Log numbers and files to a run and to its packaged model; the same ones again do nothing.

    ``files``: artifact path, such as ``listening/SLUG/pred_song.wav``, to the local file of that
    name. ``description``: markdown, shown above the run. Raises ``TrackingError`` if the store
    cannot be reached or a file is missing.
    """
    with session() as client:
        content = [dict(metrics), description] if description else dict(metrics)
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
        for artifact in sorted(files):
            digest.update(artifact.encode() + hashlib.sha256(files[artifact].read_bytes()).digest())
        tags = client.get_run(run_id).data.tags
        if tags.get(EVALUATION) == digest.hexdigest():
            return
        send_metrics(client, run_id, [{"step": 0, **metrics}], tags.get(MODEL), TEST)
        for artifact, path in files.items():
            parent = str(PurePosixPath(artifact).parent)
            send_file(client, run_id, path, None if parent == "." else parent)
        if description:
            client.set_tag(run_id, NOTE, description)
            if MODEL in tags:
                client.set_logged_model_tags(tags[MODEL], {NOTE: description})
        client.set_tag(run_id, EVALUATION, digest.hexdigest())


def evaluation_log(
    evaluation: Mapping[str, Any], kind: str, folder: Path, tables: Path
) -> tuple[dict[str, float], dict[str, Path]]:
    """Return the metrics and the files that the run of ``kind`` gets from the evaluation.

    ``tables``: the folder for its tables. Raises ``RegistryError`` if ``kind`` was not evaluated.
    """
    measured(evaluation, kind)
    songs = {SONGS: song_table(evaluation, [kind], tables / SONGS)}
    return headline(evaluation["summary"], kind), songs | _files(kind, folder)


def pipeline_log(
    evaluation: Mapping[str, Any], folder: Path, tables: Path
) -> tuple[dict[str, float], dict[str, Path]]:
    """Return the metrics and the files of the parent run.

    The metrics of the better of train and retrain have the same names as in its own run, so that
    executions can be compared. Gain and bits of all forecasters follow as NAME/KEY.
    """
    summary = evaluation["summary"]
    metrics = headline(summary, best_of(summary, KINDS))
    for name in summary:
        numbers = headline(summary, name)
        metrics |= {f"{name}/{key}": numbers[key] for key in COMPARED if key in numbers}
    files = {
        SONGS: song_table(evaluation, list(summary), tables / SONGS),
        CONTINUATION: continuation_table(evaluation, tables / CONTINUATION),
        **_files("pipeline", folder),
    }
    return metrics, files


def headline(summary: Mapping[str, Mapping[str, Any]], kind: str) -> dict[str, float]:
    """Return the metrics of a forecaster: means over songs, and its gain over ridge."""
    numbers = {k: float(v) for k, v in summary[kind].items() if isinstance(v, int | float)}
    if "ridge" in summary:
        gain = mean_gain_db(summary[kind]) - mean_gain_db(summary["ridge"])
        numbers |= {} if math.isnan(gain) else {"gain_over_ridge_db": gain}
    return numbers


def song_table(evaluation: Mapping[str, Any], names: Sequence[str], path: Path) -> Path:
    """Write gain (mean of the channels) and bits of every song with every forecaster."""
    rows = [
        (slug, name, f"{mean_gain_db(song[name]):.3f}", f"{bits_per_sample(song[name]):.4f}")
        for slug, song in evaluation["songs"].items()
        for name in names
        if name in song
    ]
    return _write_table(path, ("song", "forecaster", *COMPARED), rows)


def continuation_table(evaluation: Mapping[str, Any], path: Path) -> Path:
    """Write the means of every measure of continuations, one row per horizon."""
    entry = evaluation.get("continuation", {})
    horizons = [f"{start:g}-{stop:g}" for start, stop in entry.get("horizons_seconds", [])]
    rows = [
        (name, measure, horizon, f"{value:.4f}")
        for name, measures in entry.get("summary", {}).items()
        for measure, values in measures.items()
        for horizon, value in zip(horizons, values, strict=True)
        if value is not None
    ]
    return _write_table(path, ("model", "measure", "seconds", "mean"), rows)


def _write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])
    return path


def measured(evaluation: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return the part of metrics/evaluation.json that a registered version keeps.

    ``{"summary": {...}, "songs": {SLUG: {...}}}``. Raises ``RegistryError`` if ``kind`` was not
    evaluated.
    """
    try:
        return {
            "summary": evaluation["summary"][kind],
            "songs": {slug: song[kind] for slug, song in evaluation["songs"].items()},
        }
    except (KeyError, TypeError, AttributeError):
        raise RegistryError(
            f"metrics/evaluation.json has no entry for {kind}: run `dvc repro evaluate`"
        ) from None


def _files(kind: str, folder: Path) -> dict[str, Path]:
    """Return the files of a run: artifact path to file."""
    found = sorted(path for pattern in FILES[kind] for path in folder.glob(pattern))
    return {p.relative_to(folder).as_posix().replace("plots/report/", "plots/"): p for p in found}

"""Log the evaluation to the runs of train, retrain and the pipeline: numbers, sounds, pictures.

Logging the same evaluation again changes nothing.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from songcast.errors import RegistryError
from songcast.evaluation.summary import continuation_metrics
from songcast.report.results import best_of
from songcast.tracking.descriptions import note_of_pipeline, note_of_run
from songcast.tracking.rebuild import ensure_parent
from songcast.tracking.run_data import MODEL, Row, points_of, send_file, send_metrics
from songcast.tracking.store import clear_errors, connect, tracking_uri

EVALUATION, DESCRIPTION = "songcast.evaluation_sha256", "mlflow.note.content"
KINDS = ("train", "retrain")
# The listening files and the pictures that each run gets.
LISTENING_FILES = {
    "train": ("original.wav", "pred_song.wav", "continuation.wav"),
    "retrain": ("original.wav", "pred_song_updated.wav"),
}
PICTURES = {
    "train": ("learning_train.png", "waveforms/*", "spectrograms/*", "residuals/*", "rhythm/*"),
    "retrain": ("learning_retrain.png", "forgetting.png"),
    "pipeline": ("*.png",),
}


def log_evaluations(evaluation: Mapping[str, Any], folder: Path, runs: Mapping[str, str]) -> None:
    """Log the evaluation to the runs of train and retrain, and to their parent.

    ``evaluation``: the content of metrics/evaluation.json. ``folder``: the one with listening/,
    plots/ and report.html. ``runs``: kind to run id. Raises ``RegistryError`` if a kind was not
    evaluated, ``TrackingError`` if the store cannot be reached.
    """
    logs = {kind: evaluation_log(evaluation, kind, folder) for kind in runs}
    for kind, run_id in runs.items():
        log_evaluation(run_id, *logs[kind], note_of_run(evaluation, kind))
    metrics, files = pipeline_log(evaluation, folder)
    log_evaluation(ensure_parent(), metrics, files, note_of_pipeline(evaluation, runs))


def log_evaluation(
    run_id: str, metrics: Row, files: Mapping[str, Path], description: str = ""
) -> None:
    """Log numbers and files to a run and to its packaged model; the same ones again do nothing.

    ``files``: artifact path, such as ``listening/SLUG/pred_song.wav``, to the local file of that
    name. ``description``: markdown, shown above the run. Raises ``TrackingError`` if the store
    cannot be reached or a file is missing.
    """
    uri = tracking_uri()
    with clear_errors(uri):
        content = [dict(metrics), description] if description else dict(metrics)
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
        for artifact in sorted(files):
            digest.update(artifact.encode() + hashlib.sha256(files[artifact].read_bytes()).digest())
        client = connect(uri)
        tags = client.get_run(run_id).data.tags
        if tags.get(EVALUATION) == digest.hexdigest():
            return
        send_metrics(client, run_id, points_of([{"step": 0, **metrics}]), tags.get(MODEL))
        for artifact, path in files.items():
            parent = str(PurePosixPath(artifact).parent)
            send_file(client, run_id, path, None if parent == "." else parent)
        if description:
            client.set_tag(run_id, DESCRIPTION, description)
        client.set_tag(run_id, EVALUATION, digest.hexdigest())


def evaluation_log(
    evaluation: Mapping[str, Any], kind: str, folder: Path
) -> tuple[dict[str, float], dict[str, Path]]:
    """Return the metrics and the files that the run of ``kind`` gets from the evaluation.

    Raises ``RegistryError`` if ``kind`` was not evaluated.
    """
    metrics: dict[str, float] = {}
    entry = measured(evaluation, kind)
    tables = {"": entry["summary"], **{f"test/{s}/": t for s, t in entry["songs"].items()}}
    for prefix, table in tables.items():
        for key, value in table.items():
            values = value if isinstance(value, list) else [value]
            for channel, number in enumerate(values):
                if isinstance(number, int | float):
                    suffix = f"/channel_{channel}" if isinstance(value, list) else ""
                    metrics[f"{prefix}{key}{suffix}"] = float(number)
    found = sorted(folder.glob("listening/*/*.wav"))
    wavs = {p.relative_to(folder).as_posix(): p for p in found if p.name in LISTENING_FILES[kind]}
    return metrics, wavs | _pictures(kind, folder)


def pipeline_log(
    evaluation: Mapping[str, Any], folder: Path
) -> tuple[dict[str, float], dict[str, Path]]:
    """Return the metrics and the files of the parent run.

    The metrics of the better of train and retrain have the same names as in its own run, so that
    executions can be compared. Those of all forecasters follow as NAME/KEY, those of continuations
    as continuation/NAME/KEY/HORIZON.
    """
    summary = evaluation["summary"]
    best = best_of(summary, KINDS)
    metrics = {
        f"{prefix}{key}": float(number)
        for prefix, name in [("", best), *((f"{name}/", name) for name in summary)]
        for key, number in summary[name].items()
        if isinstance(number, int | float)
    }
    metrics |= continuation_metrics(evaluation)
    page = folder / "report.html"
    files = _pictures("pipeline", folder)
    return metrics, files | ({page.name: page} if page.is_file() else {})


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


def _pictures(kind: str, folder: Path) -> dict[str, Path]:
    """Return the pictures of a run: artifact path to file."""
    plots = folder / "plots" / "report"
    found = sorted(path for pattern in PICTURES[kind] for path in plots.glob(pattern))
    return {f"plots/{path.relative_to(plots).as_posix()}": path for path in found}

"""What a stage's outputs mean in MLflow: how a missing run is rebuilt from them.

Report and register share these, so that what one has logged the other finds unchanged.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from songcast import tracking
from songcast.bundle import read_manifest
from songcast.errors import RegistryError
from songcast.evaluation.horizons import metrics_of
from songcast.report.results import best_of
from songcast.tracking.descriptions import note_of_pipeline, note_of_run

KINDS = ("train", "retrain")
# Which of the listening files and the pictures belong to which run.
HEARD = {
    "train": ("original.wav", "pred_song.wav", "continuation.wav"),
    "retrain": ("original.wav", "pred_song_updated.wav"),
}
DRAWN = {
    "train": ("learning_train.png", "waveforms/*", "spectrograms/*", "residuals/*", "rhythm/*"),
    "retrain": ("learning_retrain.png", "forgetting.png"),
    "pipeline": ("*.png",),
}


def log_evaluations(evaluation: Mapping[str, Any], folder: Path, runs: Mapping[str, str]) -> None:
    """Log the evaluation to the runs of train and retrain, and to their parent.

    ``evaluation``: the content of metrics/evaluation.json; ``folder``: where models/, listening/,
    plots/ and report.html are. Doing it again changes nothing. Raises ``RegistryError`` where
    something was not evaluated, ``TrackingError`` where the store cannot be reached,
    ``BundleError`` for a bundle that is missing or altered.
    """
    logs = {kind: evaluation_log(evaluation, kind, folder) for kind in KINDS}
    for kind, run_id in runs.items():
        tracking.log_evaluation(run_id, *logs[kind], note_of_run(evaluation, kind))
    metrics, files = pipeline_log(evaluation, folder)
    note = note_of_pipeline(evaluation, runs)
    tracking.log_evaluation(tracking.ensure_parent(), metrics, files, note)


def run_of(kind: str, bundle: Path) -> str:
    """Return the MLflow run of a stage, rebuilt from its outputs where it is missing."""
    manifest = read_manifest(bundle)
    history = bundle / "history.csv"
    files = {"history.csv": history} if history.is_file() else {}
    return tracking.ensure_run(
        kind,
        bundle,
        params=manifest.get("params") or {},
        history_rows=tracking.read_history(history),
        model_files=files,
    )


def evaluation_log(
    evaluation: Mapping[str, Any], kind: str, folder: Path
) -> tuple[dict[str, float], dict[str, Path]]:
    """Return the metrics and the files that the run of ``kind`` gets from the evaluation.

    Pass both on to ``tracking.log_evaluation``. Raises ``RegistryError`` where ``kind`` was not
    evaluated.
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
    heard = sorted(folder.glob("listening/*/*.wav"))
    wavs = {p.relative_to(folder).as_posix(): p for p in heard if p.name in HEARD[kind]}
    return metrics, wavs | _pictures(kind, folder)


def pipeline_log(
    evaluation: Mapping[str, Any], folder: Path
) -> tuple[dict[str, float], dict[str, Path]]:
    """Return the metrics and the files of the parent run.

    The numbers of the better of train and retrain have the names that they have in the runs of
    those, so that executions can be compared; those of all forecasters follow as NAME/KEY, those
    of continuations as continuation/NAME/KEY/HORIZON.
    """
    summary = evaluation["summary"]
    best = best_of(summary, KINDS)
    metrics = {
        f"{prefix}{key}": float(number)
        for prefix, name in [("", best), *((f"{name}/", name) for name in summary)]
        for key, number in summary[name].items()
        if isinstance(number, int | float)
    }
    metrics |= metrics_of(evaluation)
    page = folder / "report.html"
    files = _pictures("pipeline", folder)
    return metrics, files | ({page.name: page} if page.is_file() else {})


def measured(evaluation: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return what is kept with a version: its part of metrics/evaluation.json.

    ``{"summary": {...}, "songs": {SLUG: {...}}}``. Raises ``RegistryError`` where ``kind`` was
    not evaluated.
    """
    try:
        return {
            "summary": evaluation["summary"][kind],
            "songs": {slug: song[kind] for slug, song in evaluation["songs"].items()},
        }
    except (KeyError, TypeError, AttributeError):
        raise RegistryError(
            f"metrics/evaluation.json says nothing about {kind}: run `dvc repro evaluate`"
        ) from None


def _pictures(kind: str, folder: Path) -> dict[str, Path]:
    """Return the pictures of a run: path among its artifacts to file."""
    plots = folder / "plots" / "report"
    found = sorted(path for pattern in DRAWN[kind] for path in plots.glob(pattern))
    return {f"plots/{path.relative_to(plots).as_posix()}": path for path in found}

"""Runs in MLflow. Plain values in, run ids out.

A stage logs live through ``stage_run``. DVC may restore a stage's outputs without running it,
so ``ensure_run`` rebuilds a missing run from those outputs; a run is known by its stage and its
weights' sha256, which makes all logging idempotent.
"""

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from songcast.bundle import read_manifest
from songcast.tracking.live import StageRun, stage_run
from songcast.tracking.outbox import deliver_kept
from songcast.tracking.parent import mark_running
from songcast.tracking.send import (
    MODEL,
    Row,
    create_run,
    finished_run,
    open_parent,
    points_of,
    send_bundle,
    send_file_as,
    send_metrics,
    send_params,
)
from songcast.tracking.store import clear_errors, connect, experiment_id, locked, tracking_uri

__all__ = [
    "EVALUATION",
    "StageRun",
    "deliver_kept",
    "ensure_parent",
    "ensure_run",
    "find_run",
    "log_evaluation",
    "read_history",
    "stage_run",
]

EVALUATION, DESCRIPTION = "songcast.evaluation_sha256", "mlflow.note.content"


def ensure_run(
    stage: str,
    bundle_dir: Path,
    params: Mapping[str, Any],
    history_rows: Iterable[Row] = (),
    tags: Mapping[str, Any] | None = None,
    model_files: Mapping[str, Path] | None = None,
) -> str:
    """Return the finished run of ``stage`` with this bundle's weights, rebuilding it if missing.

    ``history_rows``: one mapping per epoch, ``step`` and metrics (see ``read_history``).
    ``model_files``: artifact path to local file. Raises ``TrackingError`` where the store cannot
    be reached, ``BundleError`` for a bundle that is missing or altered.
    """
    sha256 = str(read_manifest(bundle_dir)["weights_sha256"])
    uri = tracking_uri()
    with clear_errors(uri):
        client = connect(uri)
        experiment = experiment_id(client)
        with locked(uri):
            found = finished_run(client, experiment, stage, sha256)
            if found:
                return found
            parent = open_parent(client, experiment, stage)
            rebuilt = {**(tags or {}), "songcast.rebuilt": "true"}
            run_id = create_run(client, stage, rebuilt, parent)
            mark_running(client, experiment, run_id, parent)
            try:
                send_params(client, run_id, params)
                send_metrics(client, run_id, points_of(history_rows))
                for artifact, path in (model_files or {}).items():
                    send_file_as(client, run_id, path, artifact)
                send_bundle(client, run_id, bundle_dir)
            except BaseException:
                for each in (run_id, parent):
                    client.set_terminated(each, status="FAILED")
                raise
            for each in (run_id, parent):
                client.set_terminated(each, status="FINISHED")
            return run_id


def ensure_parent() -> str:
    """Return the parent run of the present execution, made where there is none; it is finished.

    Raises ``TrackingError`` where the store cannot be reached.
    """
    uri = tracking_uri()
    with clear_errors(uri):
        client = connect(uri)
        run_id = open_parent(client, experiment_id(client))
        if client.get_run(run_id).info.status != "FINISHED":
            client.set_terminated(run_id, status="FINISHED")
        return run_id


def find_run(stage: str, weights_sha256: str) -> str | None:
    """Return the id of the finished run of ``stage`` with these weights, None without one."""
    uri = tracking_uri()
    with clear_errors(uri):
        client = connect(uri)
        return finished_run(client, experiment_id(client), stage, weights_sha256)


def log_evaluation(
    run_id: str, metrics: Row, files: Mapping[str, Path] | None = None, description: str = ""
) -> None:
    """Log what was measured after training. The same numbers and files again change nothing.

    ``files``: artifact path, such as ``listening/SLUG/pred_song.wav``, to local file.
    ``description``: markdown, shown above the run. Raises ``TrackingError`` where the store
    cannot be reached or a file is missing.
    """
    files = files or {}
    uri = tracking_uri()
    with clear_errors(uri):
        said = [dict(metrics), description] if description else dict(metrics)
        digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
        for artifact in sorted(files):
            digest.update(artifact.encode() + hashlib.sha256(files[artifact].read_bytes()).digest())
        client = connect(uri)
        tags = client.get_run(run_id).data.tags
        if tags.get(EVALUATION) == digest.hexdigest():
            return
        send_metrics(client, run_id, points_of([{"step": 0, **metrics}]), tags.get(MODEL))
        for artifact, path in files.items():
            send_file_as(client, run_id, path, artifact)
        if description:
            client.set_tag(run_id, DESCRIPTION, description)
        client.set_tag(run_id, EVALUATION, digest.hexdigest())


def read_history(path: Path) -> list[dict[str, float]]:
    """Read a stage's history.csv: ``step``, then one column per metric. Empty without a file."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]

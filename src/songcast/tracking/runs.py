"""Find and create runs: one for each stage, below a parent run for each execution of the pipeline.

Stages are separate processes, so an execution is identified by what it computes: params, songs,
DVC experiment and working folder. A stage joins the latest parent of its execution, so a pipeline
that was interrupted and resumed has one parent. If that parent already holds a finished run of the
stage, this is another execution and gets a new parent. All of it is stored as tags of the runs, so
any MLflow server will do.

A parent is RUNNING while one of its stages is; between two stages it has the status of the last.

DVC may restore outputs without running their stage, and the tracking server may be unreachable
while a stage runs: then ``ensure_run`` logs the run from the outputs of the stage.
"""

import datetime
import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from songcast.bundle import read_history, read_manifest
from songcast.files import PARAMS
from songcast.tracking import lineage
from songcast.tracking.run_data import (
    WEIGHTS,
    send_bundle,
    send_datasets,
    send_metrics,
    send_params,
)
from songcast.tracking.store import experiment_id, locked, session

PARENT, STAGE = "mlflow.parentRunId", "songcast.stage"
PIPELINE = "pipeline"
WORKSPACE, EXECUTION = "songcast.workspace", "songcast.execution"


def create_run(
    client: Any,
    stage: str,
    tags: Mapping[str, Any],
    parent: str | None = None,
    name: str | None = None,
    start_ms: int | None = None,
    origin: Mapping[str, Any] | None = None,
) -> str:
    """Start a run named after ``stage``, tagged with its origin, below ``parent``.

    ``start_ms``: since 1970; default now. ``origin``: the provenance of a model that was trained
    before, by an unknown user; default this machine, commit and user.
    """
    if origin is None:
        origin = lineage.provenance()
        tags = {"mlflow.user": lineage.user(), **tags}
    every = {
        "mlflow.source.type": "LOCAL",
        "mlflow.source.name": f"songcast.stages.{stage}",
        **lineage.origin_tags(origin),
        **_execution_tags(),
        **tags,
        **({PARENT: parent} if parent else {}),
        STAGE: stage,
    }
    run = client.create_run(
        experiment_id(client),
        start_time=start_ms,
        run_name=name or stage,
        tags={k: str(v) for k, v in every.items()},
    )
    run_id = str(run.info.run_id)
    send_datasets(client, run_id, stage)
    return run_id


def open_parent(client: Any, experiment: str, stage: str | None = None) -> str:
    """Return the parent run that ``stage`` joins, created if there is none.

    ``stage`` None: the latest parent of this execution, whichever stages it holds.
    """
    with locked(str(client.tracking_uri)):
        found = _search(client, experiment, {STAGE: PIPELINE, **_execution_tags()})
        if found:
            parent = str(found[0].info.run_id)
            of_stage = {STAGE: str(stage), PARENT: parent}
            if not (stage and _search(client, experiment, of_stage, "FINISHED")):
                return parent
        name = " ".join(filter(None, (PIPELINE, os.environ.get("DVC_EXP_NAME"))))
        parent = create_run(client, PIPELINE, {}, name=name)
        send_params(client, parent, lineage.params(lineage.here()))
        return parent


def mark_running(client: Any, experiment: str, run_id: str, parent: str) -> None:
    """Mark the parent of ``run_id`` as running, and other running runs of this folder as killed.

    A stage that gets SIGKILL cannot do so itself. Only one stage runs in a folder at once.
    """
    client.update_run(parent, status="RUNNING")
    workspace = {WORKSPACE: _execution_tags()[WORKSPACE]}
    for run in _search(client, experiment, workspace, "RUNNING"):
        if run.info.run_id not in (run_id, parent):
            client.set_terminated(run.info.run_id, status="KILLED")


def finished_run(client: Any, experiment: str, stage: str, sha256: str) -> str | None:
    """Return the first finished run of ``stage`` with these weights, None if there is none.

    A run that was deleted in MLflow is restored if there is no other one.
    """
    for deleted in (False, True):
        found = _search(client, experiment, {STAGE: stage, WEIGHTS: sha256}, "FINISHED", deleted)
        if found:
            run_id = str(found[-1].info.run_id)
            if deleted:
                client.restore_run(run_id)
            return run_id
    return None


def ensure_run(stage: str, bundle: Path) -> str:
    """Return the finished run of ``stage`` with this bundle's weights.

    A missing run is rebuilt: params, the metrics of history.csv, the bundle, the tags. One that
    lost its connection stays and is marked as killed. Raises ``TrackingError`` if the store
    cannot be reached, ``BundleError`` for a bundle that is missing or altered.
    """
    manifest = read_manifest(bundle)
    origin = manifest.get("provenance") or {}
    trained = datetime.datetime.fromisoformat(origin["time"]) if origin.get("time") else None
    trained_ms = round(trained.timestamp() * 1000) if trained else None
    with session(lock=True) as client:
        experiment = experiment_id(client)
        found = finished_run(client, experiment, stage, str(manifest["weights_sha256"]))
        if found:
            return found
        parent = open_parent(client, experiment, stage)
        tags = {"songcast.rebuilt": "true"}
        run_id = create_run(client, stage, tags, parent, start_ms=trained_ms, origin=origin)
        mark_running(client, experiment, run_id, parent)
        status = "FAILED"
        try:
            send_params(client, run_id, manifest.get("params") or {})
            send_metrics(client, run_id, read_history(bundle))
            send_bundle(client, run_id, bundle)
            status = "FINISHED"
        finally:
            client.set_terminated(run_id, status=status, end_time=trained_ms)
            client.set_terminated(parent, status=status)
        return run_id


def ensure_parent(runs: Iterable[str] = ()) -> str:
    """Return the finished parent of the latest of ``runs``, created if there is none.

    Runs that another user logged for the same models have the parent of that user's execution.
    Raises ``TrackingError`` if the store cannot be reached.
    """
    with session() as client:
        children = sorted(map(client.get_run, runs), key=lambda run: -run.info.start_time)
        parents = (active_run(client, run.data.tags.get(PARENT, "")) for run in children)
        parent = next(filter(None, parents), None)
        run_id = parent.info.run_id if parent else open_parent(client, experiment_id(client))
        if client.get_run(run_id).info.status != "FINISHED":
            client.set_terminated(run_id, status="FINISHED")
        return str(run_id)


def active_run(client: Any, run_id: str) -> Any:
    """Return the run, None if it was deleted or is in another store."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return run if run.info.lifecycle_stage == "active" else None


def _execution_tags() -> dict[str, str]:
    """Return the tags that runs of one execution in one folder share."""
    folder = lineage.here()
    params = folder / PARAMS
    computed = (
        params.read_bytes() if params.is_file() else b"",
        str(lineage.data_hash(folder)).encode(),
        os.environ.get("DVC_EXP_NAME", "").encode(),
    )
    return {
        WORKSPACE: _digest(str(folder.resolve()).encode()),
        EXECUTION: _digest(*computed),
    }


def _search(
    client: Any,
    experiment: str,
    tags: Mapping[str, str],
    status: str | None = None,
    deleted: bool = False,
) -> list[Any]:
    """Return the runs with these tags, newest first."""
    from mlflow.entities import ViewType

    clauses = [f"tags.`{key}` = '{value}'" for key, value in tags.items()]
    clauses += [f"attributes.status = '{status}'"] if status else []
    order = ["attributes.start_time DESC"]
    view = ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY
    query = " and ".join(clauses)
    return list(client.search_runs([experiment], query, run_view_type=view, order_by=order))


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]

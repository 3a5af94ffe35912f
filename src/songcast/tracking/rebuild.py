"""Rebuild runs from the outputs of their stages.

DVC may restore outputs without running their stage, and the tracking server may be unreachable
while a stage runs. A run is identified by its stage and its weights' sha256, so calling these
functions again changes nothing.
"""

import datetime
from collections.abc import Iterable
from pathlib import Path

from songcast.bundle import read_history, read_manifest
from songcast.tracking.run_data import points_of, send_bundle, send_metrics, send_params
from songcast.tracking.runs import (
    PARENT,
    active_run,
    create_run,
    finished_run,
    mark_running,
    open_parent,
)
from songcast.tracking.store import clear_errors, connect, experiment_id, locked, tracking_uri


def ensure_run(stage: str, bundle: Path) -> str:
    """Return the finished run of ``stage`` with this bundle's weights.

    A missing run is rebuilt: params, the metrics of history.csv, the bundle, the tags. One that
    lost its connection stays and is marked as killed. Raises ``TrackingError`` if the store
    cannot be reached, ``BundleError`` for a bundle that is missing or altered.
    """
    manifest = read_manifest(bundle)
    origin = manifest.get("provenance") or {}
    trained_ms = _milliseconds(origin.get("time"))
    uri = tracking_uri()
    with clear_errors(uri):
        client = connect(uri)
        experiment = experiment_id(client)
        with locked(uri):
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
                send_metrics(client, run_id, points_of(read_history(bundle)))
                send_bundle(client, run_id, bundle)
                status = "FINISHED"
            finally:
                client.set_terminated(run_id, status=status, end_time=trained_ms)
                client.set_terminated(parent, status=status)
            return run_id


def _milliseconds(time: str | None) -> int | None:
    """Return an ISO time in milliseconds since 1970."""
    return round(datetime.datetime.fromisoformat(time).timestamp() * 1000) if time else None


def ensure_parent(runs: Iterable[str] = ()) -> str:
    """Return the finished parent of the latest of ``runs``, created if there is none.

    Runs that another user logged for the same models have the parent of that user's execution.
    Raises ``TrackingError`` if the store cannot be reached.
    """
    uri = tracking_uri()
    with clear_errors(uri):
        client = connect(uri)
        children = sorted(map(client.get_run, runs), key=lambda run: -run.info.start_time)
        parents = (active_run(client, run.data.tags.get(PARENT, "")) for run in children)
        parent = next(filter(None, parents), None)
        run_id = parent.info.run_id if parent else open_parent(client, experiment_id(client))
        if client.get_run(run_id).info.status != "FINISHED":
            client.set_terminated(run_id, status="FINISHED")
        return str(run_id)

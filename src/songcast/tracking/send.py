"""What is sent to MLflow for a run: params, metrics, tags, files, the model."""

import contextlib
import getpass
import os
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from songcast.bundle import read_manifest
from songcast.tracking import lineage
from songcast.tracking.inputs import send_dataset
from songcast.tracking.parent import PARENT, PIPELINE, STAGE, execution_tags, find_parent, here
from songcast.tracking.store import experiment_id, locked

WEIGHTS, MODEL = "songcast.weights_sha256", "songcast.model_id"
BUNDLE = "songcast.bundle_sha256"
BATCH = 100  # MLflow takes at most 100 params and 1000 metrics in one request
LONGEST_PARAM = 6000

Row = Mapping[str, float]
Point = tuple[str, float, int, int]  # key, value, step, milliseconds since 1970


def lineage_tags() -> dict[str, str]:
    """Return where the present code, songs and environment come from, as tags."""
    folder = here()
    git = lineage.git_state(folder)
    tags = {
        "songcast.git_commit": git.commit,
        "mlflow.source.git.commit": git.commit,
        "songcast.git_dirty": None if git.dirty is None else str(git.dirty).lower(),
        "songcast.data_hash": lineage.data_hash(folder),
        "songcast.lock_sha256": lineage.lock_hash(folder),
        "songcast.hardware": lineage.hardware(),
        "songcast.backend": lineage.backend(),
        "dvc.exp_name": os.environ.get("DVC_EXP_NAME"),
        "dvc.stage": os.environ.get("DVC_STAGE"),
    }
    return {key: value for key, value in tags.items() if value}


def finished_run(client: Any, experiment: str, stage: str, sha256: str) -> str | None:
    """Return the first finished run of ``stage`` with these weights."""
    found = client.search_runs(
        [experiment],
        f"tags.`{STAGE}` = '{stage}' and tags.`{WEIGHTS}` = '{sha256}'"
        " and attributes.status = 'FINISHED'",
        max_results=1,
        order_by=["attributes.start_time ASC"],
    )
    return str(found[0].info.run_id) if found else None


def active_run(client: Any, run_id: str) -> Any:
    """Return the run, None where it was deleted or is in another store."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return run if run.info.lifecycle_stage == "active" else None


def create_run(
    client: Any,
    stage: str,
    tags: Mapping[str, Any],
    parent: str | None = None,
    name: str | None = None,
    start_ms: int | None = None,
) -> str:
    """Start a run named after ``stage``, tagged with where it comes from, below ``parent``.

    ``start_ms``: since 1970; default now.
    """
    with contextlib.suppress(OSError, KeyError):  # a container may know no user
        tags = {"mlflow.user": getpass.getuser(), **tags}
    every = {
        "mlflow.source.type": "LOCAL",
        "mlflow.source.name": f"songcast.stages.{stage}",
        **lineage_tags(),
        **execution_tags(),
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
    send_dataset(client, run_id, "training" if parent else "evaluation")
    return run_id


def open_parent(client: Any, experiment: str, stage: str | None = None) -> str:
    """Return the parent run for ``stage`` (see ``find_parent``), made where there is none."""
    with locked(str(client.tracking_uri)):
        found = find_parent(client, experiment, stage)
        if found:
            return found
        name = " ".join(filter(None, (PIPELINE, os.environ.get("DVC_EXP_NAME"))))
        return create_run(client, PIPELINE, {}, name=name)


def flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested params as ``{"a.b": "value"}``.

    >>> flatten({"seed": 1, "lstm": {"units": 96}})
    {'seed': '1', 'lstm.units': '96'}
    """
    flat: dict[str, str] = {}
    for key, value in params.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)[:LONGEST_PARAM]
    return flat


def send_params(client: Any, run_id: str, params: Mapping[str, Any]) -> None:
    """Log params; those already there stay, as MLflow refuses to change one."""
    from mlflow.entities import Param

    known = client.get_run(run_id).data.params
    new = [Param(k, v) for k, v in flatten(params).items() if k not in known]
    for start in range(0, len(new), BATCH):
        client.log_batch(run_id, params=new[start : start + BATCH])


def points_of(rows: Iterable[Row]) -> list[Point]:
    """Return the metrics of rows that each have a ``step``, as MLflow's points in time."""
    now = time.time_ns() // 1_000_000
    return [
        (key, float(value), int(row["step"]), now)
        for row in rows
        for key, value in row.items()
        if key != "step"
    ]


def send_metrics(
    client: Any, run_id: str, points: list[Point], model_id: str | None = None
) -> None:
    """Log metrics, as few requests as there can be; ``model_id``: the model's page shows them."""
    from mlflow.entities import Metric

    metrics = [Metric(key, value, ms, step, model_id=model_id) for key, value, step, ms in points]
    for start in range(0, len(metrics), 10 * BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + 10 * BATCH])


def send_tags(client: Any, run_id: str, tags: Mapping[str, Any]) -> None:
    """Set tags in one request."""
    from mlflow.entities import RunTag

    client.log_batch(run_id, tags=[RunTag(k, str(v)) for k, v in tags.items()])


def send_file(client: Any, run_id: str, path: Path, folder: str | None) -> None:
    """Log a file, or all of a directory, into ``folder`` of the run's artifacts."""
    if path.is_dir():
        client.log_artifacts(run_id, str(path), folder)
    else:
        client.log_artifact(run_id, str(path), folder)


def send_file_as(client: Any, run_id: str, path: Path, artifact: str) -> None:
    """Log ``path`` under the whole path ``artifact``; MLflow itself cannot rename a file."""
    folder, _, name = artifact.rpartition("/")
    if name == path.name:
        client.log_artifact(run_id, str(path), folder or None)
        return
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / name
        copy.write_bytes(path.read_bytes())
        client.log_artifact(run_id, str(copy), folder or None)


def send_bundle(client: Any, run_id: str, bundle: Path) -> None:
    """Log the files of the bundle and mark the run as complete."""
    manifest = read_manifest(bundle)
    sha256 = str(manifest["weights_sha256"])
    send_file(client, run_id, bundle, "bundle")
    # Last, because a run with this tag counts as complete.
    send_tags(client, run_id, {"songcast.kind": manifest["kind"], WEIGHTS: sha256})

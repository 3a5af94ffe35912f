"""Runs in MLflow. Plain values in, run ids out; nothing here can stop a training.

A stage logs live through ``stage_run``. DVC may restore a stage's outputs without running it,
so ``ensure_run`` rebuilds a missing run from those outputs; a run is known by its stage and its
weights' sha256, which makes all logging idempotent.
"""

import contextlib
import csv
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from songcast.bundle import read_manifest
from songcast.errors import TrackingError
from songcast.tracking_send import (
    Point,
    Row,
    create_run,
    finished_run,
    flatten,
    points_of,
    send_bundle,
    send_file,
    send_file_as,
    send_metrics,
    send_params,
    send_tags,
)
from songcast.tracking_store import (
    clear_errors,
    connect,
    experiment_id,
    explain,
    home,
    locked,
    tracking_uri,
)

EVALUATION = "songcast.evaluation_sha256"
SYSTEM_METRICS_SECONDS = 5.0
FLUSH_SECONDS = 1.0


class StageRun:
    """A run being logged. Made by ``stage_run``; ``run_id`` is None while the server is away."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.run_id: str | None = None
        self._client: Any = None
        self._metrics: list[Point] = []
        self._known: set[tuple[str, int]] = set()
        self._sent_at = 0.0
        self._monitor: Any = None
        self._offline = False

    def log_metrics(self, metrics: Row, step: int) -> None:
        """Log numbers of one step (an epoch). Sent in one request, at most one per second.

        A resumed run skips what it has already logged for this step.
        """
        now = time.time_ns() // 1_000_000
        self._metrics += [
            (key, float(value), step, now)
            for key, value in metrics.items()
            if (key, step) not in self._known
        ]
        if time.monotonic() - self._sent_at >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Send the buffered metrics."""
        if not self._metrics:
            return
        pending, self._metrics = self._metrics, []
        self._deliver(lambda: send_metrics(self._client, self._id, pending), {"metrics": pending})
        self._sent_at = time.monotonic()

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Log a file, or all of a directory, into ``folder`` of the run's artifacts."""
        record = {"artifact": str(path), "folder": folder}
        self._deliver(lambda: send_file(self._client, self._id, path, folder), record)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Add tags."""
        self._deliver(lambda: send_tags(self._client, self._id, tags), {"tags": dict(tags)})

    def log_bundle(self, bundle: Path) -> None:
        """Log the finished bundle as the run's model. Call it last: it makes the run whole."""
        self.flush()
        self._deliver(
            lambda: send_bundle(self._client, self._id, self.stage, bundle),
            {"bundle": str(bundle)},
        )

    @property
    def _id(self) -> str:
        if self.run_id is None:
            raise TrackingError(f"run {self.stage} was never started")
        return self.run_id

    def _deliver(self, action: Callable[[], object], record: Mapping[str, Any]) -> None:
        """Do ``action``; if that fails, keep ``record`` in a file. Training goes on either way."""
        if not self._offline:
            try:
                action()
                return
            except Exception as error:
                # Whatever MLflow, the network or the disk may raise: a model in training is
                # worth more than its log. Everything can be rebuilt from the stage's outputs.
                self._offline = True
                print(
                    f"songcast: {self.stage} goes on without MLflow, kept in {self._kept}: "
                    f"{explain(tracking_uri(), error)}",
                    file=sys.stderr,
                )
        with contextlib.suppress(OSError):
            self._kept.parent.mkdir(parents=True, exist_ok=True)
            with self._kept.open("a") as file:
                file.write(
                    json.dumps({"stage": self.stage, "run_id": self.run_id, **record}) + "\n"
                )

    @property
    def _kept(self) -> Path:
        return home() / "undelivered" / f"{self.stage}-{os.getpid()}.jsonl"

    def _start(
        self, params: Mapping[str, Any], tags: Mapping[str, Any], resume: str | None
    ) -> None:
        self._client = connect()
        resumed = resume is not None and self._resume(resume)
        if not resumed:
            self.run_id = create_run(self._client, self.stage, tags)
        send_params(self._client, self._id, params)
        self._monitor = _system_monitor(self._client, self._id, resumed)

    def _resume(self, run_id: str) -> bool:
        """Continue run ``run_id`` if this store has it; it may be another store than before."""
        from mlflow.exceptions import MlflowException

        try:
            run = self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        if run.info.lifecycle_stage != "active":
            return False
        self.run_id = run_id
        self._client.update_run(run_id, status="RUNNING")
        for key in run.data.metrics:
            if not key.startswith("system/"):
                history = self._client.get_metric_history(run_id, key)
                self._known |= {(key, point.step) for point in history}
        return True

    def _finish(self, status: str) -> None:
        self.flush()
        if self._monitor is not None:
            self._monitor.finish()
            self._monitor = None
        if self.run_id is not None:
            self._deliver(
                lambda: self._client.set_terminated(self._id, status=status), {"status": status}
            )


@contextlib.contextmanager
def stage_run(
    stage: str,
    params: Mapping[str, Any],
    tags: Mapping[str, Any] | None = None,
    resume_id: str | None = None,
) -> Iterator[StageRun]:
    """Log a stage as an MLflow run named after it.

    ``params``: may be nested; logged as ``a.b``. ``resume_id``: the run to go on with, if the
    store has it. The run ends FINISHED, FAILED on an exception, KILLED on Ctrl-C; both are
    raised again. An unreachable store is reported once on stderr and never stops the block.
    """
    run = StageRun(stage)
    run._deliver(
        lambda: run._start(params, tags or {}, resume_id),
        {"params": flatten(params), "tags": {k: str(v) for k, v in (tags or {}).items()}},
    )
    try:
        yield run
    except BaseException as error:
        run._finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    run._finish("FINISHED")


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
            run_id = create_run(client, stage, {**(tags or {}), "songcast.rebuilt": "true"})
            try:
                send_params(client, run_id, params)
                send_metrics(client, run_id, points_of(history_rows))
                for artifact, path in (model_files or {}).items():
                    send_file_as(client, run_id, path, artifact)
                send_bundle(client, run_id, stage, bundle_dir)
            except BaseException:
                client.set_terminated(run_id, status="FAILED")
                raise
            client.set_terminated(run_id, status="FINISHED")
            return run_id


def find_run(stage: str, weights_sha256: str) -> str | None:
    """Return the id of the finished run of ``stage`` with these weights, None without one."""
    uri = tracking_uri()
    with clear_errors(uri):
        client = connect(uri)
        return finished_run(client, experiment_id(client), stage, weights_sha256)


def log_evaluation(run_id: str, metrics: Row, files: Mapping[str, Path] | None = None) -> None:
    """Log what was measured after training. The same numbers and files again change nothing.

    ``files``: artifact path, such as ``listening/SLUG/pred_song.wav``, to local file. Raises
    ``TrackingError`` where the store cannot be reached or a file is missing.
    """
    files = files or {}
    uri = tracking_uri()
    with clear_errors(uri):
        digest = hashlib.sha256(json.dumps(dict(metrics), sort_keys=True).encode())
        for artifact in sorted(files):
            digest.update(artifact.encode() + hashlib.sha256(files[artifact].read_bytes()).digest())
        client = connect(uri)
        if client.get_run(run_id).data.tags.get(EVALUATION) == digest.hexdigest():
            return
        send_metrics(client, run_id, points_of([{"step": 0, **metrics}]))
        for artifact, path in files.items():
            send_file_as(client, run_id, path, artifact)
        client.set_tag(run_id, EVALUATION, digest.hexdigest())


def read_history(path: Path) -> list[dict[str, float]]:
    """Read a stage's history.csv: ``step``, then one column per metric. Empty without a file."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


def _system_monitor(client: Any, run_id: str, resumed: bool) -> Any:
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(
        run_id,
        sampling_interval=SYSTEM_METRICS_SECONDS,
        resume_logging=resumed,
        tracking_uri=client.tracking_uri,
    )
    monitor.start()
    return monitor

"""A stage's run while it runs: logged live, and nothing here can stop a training."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from songcast.errors import TrackingError
from songcast.tracking.parent import PARENT, mark_running
from songcast.tracking.send import (
    Point,
    Row,
    create_run,
    flatten,
    open_parent,
    send_bundle,
    send_file,
    send_metrics,
    send_params,
    send_tags,
)
from songcast.tracking.store import connect, experiment_id, explain, home, tracking_uri

SYSTEM_METRICS_SECONDS = 5.0
FLUSH_SECONDS = 1.0


class StageRun:
    """A run being logged. Made by ``stage_run``; ``run_id`` is None while the server is away."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.run_id: str | None = None
        self._client: Any = None
        self._parent: str | None = None
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
        experiment = experiment_id(self._client)
        resumed = resume is not None and self._resume(resume)
        self._parent = self._parent or open_parent(self._client, experiment, self.stage)
        if not resumed:
            self.run_id = create_run(self._client, self.stage, tags, self._parent)
        mark_running(self._client, experiment, self._id, self._parent)
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
        self._parent = run.data.tags.get(PARENT)
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
        for run_id in filter(None, (self.run_id, self._parent)):
            self._deliver(
                partial(self._client.set_terminated, run_id, status=status), {"status": status}
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

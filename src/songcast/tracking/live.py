"""A stage's run while it runs: logged live, and nothing here can stop or slow a training."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from songcast.bundle import read_manifest
from songcast.tracking.outbox import Outbox, Record, now_ms, own_path, send_record
from songcast.tracking.parent import PARENT, execution_tags, mark_running
from songcast.tracking.send import (
    Point,
    Row,
    active_run,
    create_run,
    flatten,
    lineage_tags,
    open_parent,
    send_params,
)
from songcast.tracking.store import connect, experiment_id, explain, tracking_uri

SYSTEM_METRICS_SECONDS = 5.0
FLUSH_SECONDS = 1.0
# A store that did not answer is asked again after so long.
RETRY_SECONDS = 30.0


class StageRun:
    """A run being logged. Made by ``stage_run``; ``run_id`` is None while the server is away.

    One thread sends, in order; only the end of the stage waits for it. What cannot be sent is
    kept in a file (see ``outbox``) and tried again.
    """

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.run_id: str | None = None
        self._client: Any = None
        self._parent: str | None = None
        self._metrics: list[Point] = []
        self._known: set[tuple[str, int]] = set()
        self._sent_at = 0.0
        self._monitor: Any = None
        self._resume_id: str | None = None
        self._sender = ThreadPoolExecutor(1)
        self._sending: Future[None] | None = None
        self._outbox = Outbox(own_path(stage))
        self._retry_at: float | None = None  # None while the store answers

    def log_metrics(self, metrics: Row, step: int) -> None:
        """Log numbers of one step (an epoch). Sent in one request, at most one per second.

        A resumed run skips what it has already logged for this step.
        """
        now = now_ms()
        self._metrics += [
            (key, float(value), step, now)
            for key, value in metrics.items()
            if (key, step) not in self._known
        ]
        idle = self._sending is None or self._sending.done()
        if idle and time.monotonic() - self._sent_at >= FLUSH_SECONDS:
            self._flush()

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Log a file, or all of a directory, into ``folder`` of the run's artifacts."""
        self._hand_over({"artifact": str(path.absolute()), "folder": folder}).result()

    def log_bundle(self, bundle: Path) -> None:
        """Log the finished bundle as the run's model. Call it last: it makes the run whole."""
        self._flush()
        sha256 = read_manifest(bundle)["weights_sha256"]
        self._hand_over(
            {"bundle": str(bundle.absolute()), "stage": self.stage, "weights_sha256": sha256}
        ).result()

    def _flush(self) -> None:
        """Send the buffered metrics, waiting for nothing."""
        if self._metrics:
            pending, self._metrics = self._metrics, []
            self._sending = self._hand_over({"metrics": pending})
            self._sent_at = time.monotonic()

    def _hand_over(self, record: Record) -> Future[None]:
        """Give a record to the thread that sends."""
        return self._sender.submit(self._deliver, record)

    def _deliver(self, record: Record) -> None:
        """Send a record after those that were kept; if that fails, keep it too."""
        if self._retry_at is None or time.monotonic() >= self._retry_at:
            try:
                self._outbox.deliver(self._send)
                self._send(record, self.run_id)
                if self._retry_at is not None:
                    self._say(f"MLflow answers again, {self.stage} has told it all")
                self._retry_at = None
                return
            except Exception as error:
                # Whatever MLflow, the network or the disk may raise: a model in training is
                # worth more than its log. Everything can be rebuilt from the stage's outputs.
                if self._retry_at is None:
                    self._say(
                        f"{self.stage} goes on without MLflow, kept in {self._outbox.path} "
                        f"for `songcast sync`: {explain(tracking_uri(), error)}"
                    )
                self._retry_at = time.monotonic() + RETRY_SECONDS
        with contextlib.suppress(OSError):
            self._outbox.keep({**record, "run_id": self.run_id})

    def _send(self, record: Record, run_id: str | None) -> str | None:
        self.run_id = self.run_id or run_id
        if "start" in record:
            self._start(record["start"], record["tags"])
        elif self.run_id is not None:
            send_record(self._client, self.run_id, record)
        return self.run_id

    def _say(self, line: str) -> None:
        print(f"songcast: {line}", file=sys.stderr)

    def _start(self, params: Mapping[str, Any], tags: Mapping[str, Any]) -> None:
        self._client = connect()
        experiment = experiment_id(self._client)
        resumed = self._resume_id is not None and self._resume(self._resume_id)
        self._parent = self._parent or open_parent(self._client, experiment, self.stage)
        # What an attempt that broke off has made is not made again.
        self.run_id = self.run_id or create_run(self._client, self.stage, tags, self._parent)
        mark_running(self._client, experiment, self.run_id, self._parent)
        send_params(self._client, self.run_id, params)
        self._monitor = _system_monitor(self._client, self.run_id, resumed)

    def _resume(self, run_id: str) -> bool:
        """Continue run ``run_id`` if this store has it; it may be another store than before."""
        run = active_run(self._client, run_id)
        if run is None:
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
        self._flush()
        if self._monitor is not None:
            # It waits for its last request, which a dead store does not answer.
            stop = threading.Thread(target=self._monitor.finish, daemon=True)
            stop.start()
            stop.join(None if self._retry_at is None else 0.0)
        self._hand_over({"end": status, "ms": now_ms()}).result()
        self._sender.shutdown()
        self._outbox.close()


@contextlib.contextmanager
def stage_run(
    stage: str,
    params: Mapping[str, Any],
    tags: Mapping[str, Any] | None = None,
    resume_id: str | None = None,
) -> Iterator[StageRun]:
    """Log a stage as an MLflow run named after it.

    ``params``: may be nested; logged as ``a.b``. ``resume_id``: the run to go on with, if the
    store has it. The run ends FINISHED, FAILED on an exception, KILLED on Ctrl-C and SIGTERM;
    both are raised again. An unreachable store is reported once on stderr and never stops the
    block: what it should know is kept, and sent when it answers again.
    """
    run = StageRun(stage)
    run._resume_id = resume_id
    every = {**lineage_tags(), **execution_tags(), **(tags or {})}
    start = {"start": flatten(params), "tags": {k: str(v) for k, v in every.items()}}
    try:
        run._hand_over({**start, "ms": now_ms()}).result()
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

"""Log a stage while it runs. A tracking server that is down neither stops nor slows the stage."""

import contextlib
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from songcast.tracking.run_data import (
    Point,
    Row,
    logged_points,
    send_bundle,
    send_file,
    send_metrics,
    send_params,
)
from songcast.tracking.runs import PARENT, active_run, create_run, mark_running, open_parent
from songcast.tracking.store import connect, experiment_id, explain, tracking_uri

SYSTEM_METRICS_SECONDS = 5.0
FLUSH_SECONDS = 1.0
# How long to wait before the next request to a store that failed.
RETRY_SECONDS = 30.0


class StageRun:
    """A run being logged, made by ``stage_run``; ``run_id`` is None while the store is unreachable.

    A thread sends the requests in order. Requests that fail stay in memory and are repeated
    every ``RETRY_SECONDS``; those that remain at the end of the stage are dropped, because
    ``rebuild.ensure_run`` completes the run from the stage's outputs.
    """

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.run_id: str | None = None
        self._client: Any = None
        self._parent: str | None = None
        self._points: list[Point] = []
        self._logged: set[tuple[str, int]] = set()
        self._flushed_at = 0.0
        self._monitor: Any = None
        self._thread = ThreadPoolExecutor(1)
        self._requests: deque[Callable[[], None]] = deque()
        self._sending: Future[None] | None = None
        self._retry_at: float | None = None  # None while the store is reachable

    def log_metrics(self, metrics: Row, step: int) -> None:
        """Log numbers of one step (an epoch), in at most one request per second.

        A resumed run skips the numbers that it has already logged for this step.
        """
        now = _now_ms()
        self._points += [
            (key, float(value), step, now)
            for key, value in metrics.items()
            if (key, step) not in self._logged
        ]
        idle = self._sending is None or self._sending.done()
        if idle and time.monotonic() - self._flushed_at >= FLUSH_SECONDS:
            self._flush()

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Log a file, or all of a directory, into ``folder`` of the run's artifacts."""
        self._request(lambda: send_file(self._client, self.run_id, path, folder)).result()

    def log_bundle(self, bundle: Path) -> None:
        """Log the finished bundle. Call it last: it marks the run as complete."""
        self._flush()
        self._request(lambda: send_bundle(self._client, self.run_id, bundle)).result()

    def start(
        self, params: Mapping[str, Any], tags: Mapping[str, Any], resume_id: str | None
    ) -> None:
        """Create the run, or resume the run ``resume_id`` if this store has it."""
        start = partial(self._start, params, tags, resume_id, _now_ms())
        self._request(start).result()

    def finish(self, status: str) -> None:
        """Send what is left and set the final status of the run and of its parent."""
        self._flush()
        if self._monitor is not None:
            # Its last request blocks when the store is unreachable.
            stop = threading.Thread(target=self._monitor.finish, daemon=True)
            stop.start()
            stop.join(None if self._retry_at is None else 0.0)
        self._request(partial(self._end, status, _now_ms())).result()
        self._thread.shutdown()

    def _flush(self) -> None:
        """Send the buffered metrics in the background."""
        if self._points:
            points, self._points = self._points, []
            self._sending = self._request(lambda: send_metrics(self._client, self.run_id, points))
            self._flushed_at = time.monotonic()

    def _request(self, request: Callable[[], None]) -> Future[None]:
        """Queue a request; the result is there after an attempt to send the whole queue."""
        self._requests.append(request)
        return self._thread.submit(self._send_all)

    def _send_all(self) -> None:
        """Send the queued requests in order, up to the first that fails."""
        if self._retry_at is not None and time.monotonic() < self._retry_at:
            return
        try:
            while self._requests:
                self._requests[0]()
                self._requests.popleft()
        except Exception as error:
            # MLflow, the network and the disk raise many types; none may end a training.
            if self._retry_at is None:
                _warn(
                    f"{self.stage} continues without MLflow; register completes its run later: "
                    f"{explain(tracking_uri(), error)}"
                )
            self._retry_at = time.monotonic() + RETRY_SECONDS
            return
        if self._retry_at is not None:
            _warn(f"MLflow is reachable again; the buffered records of {self.stage} were sent")
            self._retry_at = None

    def _start(
        self,
        params: Mapping[str, Any],
        tags: Mapping[str, Any],
        resume_id: str | None,
        start_ms: int,
    ) -> None:
        self._client = connect()
        experiment = experiment_id(self._client)
        resumed = resume_id is not None and self._resume(resume_id)
        self._parent = self._parent or open_parent(self._client, experiment, self.stage)
        # An earlier attempt that failed half-way may have created the run.
        self.run_id = self.run_id or create_run(
            self._client, self.stage, tags, self._parent, start_ms=start_ms
        )
        mark_running(self._client, experiment, self.run_id, self._parent)
        send_params(self._client, self.run_id, params)
        self._monitor = _system_monitor(self._client, self.run_id, resumed)

    def _resume(self, run_id: str) -> bool:
        """Resume run ``run_id``; return False if this store does not have it."""
        run = active_run(self._client, run_id)
        if run is None:
            return False
        self.run_id = run_id
        self._parent = run.data.tags.get(PARENT)
        self._client.update_run(run_id, status="RUNNING")
        self._logged = set(logged_points(self._client, run))
        return True

    def _end(self, status: str, end_ms: int) -> None:
        for run_id in (self.run_id, self._parent):
            self._client.set_terminated(run_id, status=status, end_time=end_ms)


@contextlib.contextmanager
def stage_run(
    stage: str,
    params: Mapping[str, Any],
    tags: Mapping[str, Any] | None = None,
    resume_id: str | None = None,
) -> Iterator[StageRun]:
    """Log a stage as an MLflow run named after it.

    ``params``: may be nested; logged as ``a.b``. ``resume_id``: the run to resume, if the store
    has it. The run ends FINISHED, FAILED on an exception, KILLED on Ctrl-C and SIGTERM; the
    exception is raised again. An unreachable store is reported in one line on stderr and never
    stops the block.
    """
    run = StageRun(stage)
    try:
        run.start(params, tags or {}, resume_id)
        yield run
    except BaseException as error:
        run.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    run.finish("FINISHED")


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


def _warn(line: str) -> None:
    print(f"songcast: {line}", file=sys.stderr)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000

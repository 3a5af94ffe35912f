"""Log a stage while it runs. A tracking server that is down does not stop the stage."""

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from songcast.tracking.run_data import Row, send_bundle, send_file, send_metrics, send_params
from songcast.tracking.runs import PARENT, active_run, create_run, mark_running, open_parent
from songcast.tracking.store import connect, experiment_id, explain, tracking_uri

SYSTEM_METRICS_SECONDS = 5.0


class StageRun:
    """A run being logged, made by ``stage_run``; ``run_id`` is None if it could not be created.

    After the first request that fails, nothing more is sent: ``runs.ensure_run`` logs the run
    again, from the stage's outputs.
    """

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.run_id: str | None = None
        self._client: Any = None
        self._parent: str | None = None
        self._monitor: Any = None
        self._is_lost = False

    def log_metrics(self, metrics: Row, step: int) -> None:
        """Log numbers of one step (an epoch)."""
        self._try(send_metrics, self._client, self.run_id, [{**metrics, "step": step}])

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Log a file, or all of a directory, into ``folder`` of the run's artifacts."""
        self._try(send_file, self._client, self.run_id, path, folder)

    def log_bundle(self, bundle: Path) -> None:
        """Log the finished bundle. Call it last: it marks the run as complete."""
        self._try(send_bundle, self._client, self.run_id, bundle)

    def start(
        self,
        params: Mapping[str, Any],
        tags: Mapping[str, Any],
        resume_id: str | None,
        start_ms: int | None = None,
    ) -> None:
        """Create the run, or resume the run ``resume_id`` if this store has it."""

        def request() -> None:
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            self._client = client = connect()
            experiment = experiment_id(client)
            earlier = active_run(client, resume_id) if resume_id else None
            if earlier:
                self.run_id, self._parent = str(earlier.info.run_id), earlier.data.tags.get(PARENT)
                client.update_run(self.run_id, status="RUNNING")
            self._parent = self._parent or open_parent(client, experiment, self.stage)
            self.run_id = self.run_id or create_run(
                client, self.stage, tags, self._parent, start_ms=start_ms
            )
            mark_running(client, experiment, self.run_id, self._parent)
            send_params(client, self.run_id, params)
            self._monitor = SystemMetricsMonitor(
                self.run_id,
                sampling_interval=SYSTEM_METRICS_SECONDS,
                resume_logging=earlier is not None,
                tracking_uri=client.tracking_uri,
            )
            self._monitor.start()

        self._try(request)

    def finish(self, status: str) -> None:
        """Set the final status of the run and of its parent."""
        if self._monitor is not None:
            # Its last request blocks when the store is unreachable.
            stop = threading.Thread(target=self._monitor.finish, daemon=True)
            stop.start()
            stop.join(0.0 if self._is_lost else None)
        for run_id in filter(None, (self.run_id, self._parent)):
            self._try(lambda ended: self._client.set_terminated(ended, status), run_id)

    def _try(self, request: Callable[..., None], *arguments: Any) -> None:
        """Call ``request`` with ``arguments``, unless one has failed before."""
        if self._is_lost:
            return
        try:
            request(*arguments)
        except Exception as error:
            # MLflow, the network and the disk raise many types; none may end a training.
            self._is_lost = True
            print(
                f"songcast: {self.stage} continues without MLflow; register logs its run "
                f"again: {explain(tracking_uri(), error)}",
                file=sys.stderr,
            )


@contextlib.contextmanager
def stage_run(
    stage: str,
    params: Mapping[str, Any],
    tags: Mapping[str, Any] | None = None,
    resume_id: str | None = None,
    start_ms: int | None = None,
) -> Iterator[StageRun]:
    """Log a stage as an MLflow run named after it.

    ``params``: may be nested; logged as ``a.b``. ``resume_id``: the run to resume, if the store
    has it. ``start_ms``: when the stage began, since 1970; default now. The run ends FINISHED,
    FAILED on an exception, KILLED on Ctrl-C and SIGTERM; the exception is raised again. An
    unreachable store is reported in one line on stderr and never stops the block.
    """
    run = StageRun(stage)
    try:
        run.start(params, tags or {}, resume_id, start_ms)
        yield run
    except BaseException as error:
        run.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    run.finish("FINISHED")

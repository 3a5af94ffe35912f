"""Connect to the MLflow store: its URI, its lock, and clear messages when it fails."""

import contextlib
import fcntl
import logging
import os
import re
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from songcast.errors import SongcastError, TrackingError, disk_fault
from songcast.files import root
from songcast.tracking.descriptions import VIEW, experiment_tags
from songcast.tracking.embedded import EXPERIMENT, artifact_root, database, mend, sqlite_uri

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # With `--json`, stdout holds one JSON document and nothing else.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    # With MLflow's defaults a dead server blocks one call for 248 s.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
VARIABLE = "MLFLOW_TRACKING_URI"
# SQLite's messages, and what the user can do about each.
SQLITE_MESSAGE = re.compile(r"\(sqlite3\.\w+\) ([^\n]+)")
SQLITE_ADVICE = {
    "database is locked": "another program uses it: wait until it ends, or stop it",
    "database or disk is full": "free some space and run it again",
    "attempt to write a readonly database": "check the permissions of the file and its folder",
    "unable to open database file": "check that its folder is there, and the permissions",
    "file is not a database": "restore it, or move it away: `make run` builds a new one",
    "database disk image is malformed": "restore it, or move it away: `make run` builds a new one",
}
# MLflow's message when the server rejects the credentials, or the user has no permission.
REFUSED = re.compile(r"failed with error code (?:401|403) .*?Response body: '([^\n.']+)")


class _Held(threading.local):
    """The databases whose lock this thread holds."""

    def __init__(self) -> None:
        self.files: set[Path] = set()


_HELD = _Held()


def tracking_uri() -> str:
    """Return ``MLFLOW_TRACKING_URI``, or the embedded store of this repository."""
    return os.environ.get(VARIABLE) or sqlite_uri(home() / "mlflow.db")


def home() -> Path:
    """Return the folder ``mlruns`` at the repository root."""
    return root() / "mlruns"


def import_mlflow() -> Any:
    """Import MLflow (4 s) and return it; set its options that the user has not set."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        # MLflow's modules warn about themselves while they are imported.
        warnings.simplefilter("ignore")
        import mlflow
        import mlflow.store.tracking.sqlalchemy_store

        with contextlib.suppress(ImportError):  # without pandas: a stage that trains
            import mlflow.pyfunc

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(os.environ["MLFLOW_LOGGING_LEVEL"])
    # An unreachable server and a full disk are reported by ``explain``.
    for name in ("mlflow.system_metrics", "mlflow.store"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return mlflow


def connect(uri: str | None = None) -> Any:
    """Return an ``MlflowClient``. Creates the embedded database if it does not exist.

    Raises ``TrackingError`` if the database cannot be created or opened.
    """
    uri = uri or tracking_uri()
    mlflow = import_mlflow()
    file = database(uri)
    if file and not file.exists():
        with clear_errors(uri), locked(uri):
            if not file.exists():
                _create_database(file)
    elif file:
        mend(file)
    return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)


@contextlib.contextmanager
def session(lock: bool = False) -> Iterator[Any]:
    """Yield a client of the store; an exception within the block becomes a ``TrackingError``.

    ``lock``: hold the store's lock, see ``locked``.
    """
    uri = tracking_uri()
    with clear_errors(uri), locked(uri) if lock else contextlib.nullcontext():
        yield connect(uri)


def experiment_id(client: Any) -> str:
    """Return the id of the experiment ``songcast``, created or restored if necessary."""
    uri = str(client.tracking_uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        with locked(uri):
            experiment = client.get_experiment_by_name(EXPERIMENT)
            if experiment is None:
                # A server has its own artifact root.
                file = database(uri)
                place = f"{artifact_root(file)}/{EXPERIMENT}" if file else None
                return str(client.create_experiment(EXPERIMENT, place, experiment_tags()))
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    return str(experiment.experiment_id)


@contextlib.contextmanager
def locked(uri: str) -> Iterator[None]:
    """Hold the embedded store's lock, so that two processes do not create the same thing.

    A thread that holds it may take it again. A server has no lock: there the caller has to check.
    The operating system frees the lock of a process that dies.
    """
    file = database(uri)
    if file is None or file in _HELD.files:
        yield
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with (file.parent / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _HELD.files.add(file)
        try:
            yield
        finally:
            _HELD.files.discard(file)


@contextlib.contextmanager
def as_default(uri: str) -> Iterator[None]:
    """Make ``uri`` the store of those calls of MLflow that take none, within the block."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = uri
    try:
        yield
    finally:
        del os.environ[VARIABLE]
        os.environ |= {VARIABLE: before} if before is not None else {}


@contextlib.contextmanager
def clear_errors(uri: str) -> Iterator[None]:
    """Turn any exception within the block into a ``TrackingError`` with a message of one line."""
    try:
        yield
    except SongcastError:
        raise
    except Exception as error:
        # MLflow does not wrap the exceptions of requests, sqlalchemy and the file system.
        raise TrackingError(explain(uri, error)) from error


def explain(uri: str, error: Exception) -> str:
    """Return one line: what went wrong with the store at ``uri``, and what to do."""
    if isinstance(error, SongcastError):
        return str(error)
    text = str(error).strip()
    refused = REFUSED.search(text)
    if refused:
        return (
            f"the tracking server at {uri} refused access ({refused[1]}): check "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or ask its owner for permission"
        )
    if database(uri) is None and ("API request" in text or "onnection" in text):
        return (
            f"the tracking server at {uri} does not answer: start it, "
            "or unset MLFLOW_TRACKING_URI to use the embedded store"
        )
    line = disk_fault(error) or (text.splitlines()[0] if text else type(error).__name__)
    by_sqlite = SQLITE_MESSAGE.search(text)
    line = by_sqlite[1] if by_sqlite else line
    advice = SQLITE_ADVICE.get(line)
    line = f"{line}; {advice}" if advice else line
    return f"MLflow store {uri}: {line}"


def ui_command(port: int = 5000) -> tuple[list[str], dict[str, str], str]:
    """Return the command that serves the MLflow UI on loopback, its environment and the URL.

    Raises ``TrackingError`` if ``MLFLOW_TRACKING_URI`` names a server: a server has its own UI.
    """
    uri = tracking_uri()
    file = database(uri)
    if file is None:
        raise TrackingError(f"MLFLOW_TRACKING_URI is set: open the UI of the server, {uri}")
    with session() as client:
        experiment = experiment_id(client)
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    command += ["--default-artifact-root", artifact_root(file), "--workers", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    # Without the query, the UI opens in its GenAI mode, which shows no training runs.
    page = f"#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey={VIEW}"
    environment = {k: v for k, v in os.environ.items() if k != VARIABLE}
    return command, environment, f"http://127.0.0.1:{port}/{page}"


def _create_database(file: Path) -> None:
    """Create the database completely or not at all: an interrupted migration cannot be resumed.

    The caller holds the store's lock.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    print(f"creating the MLflow database {file} (once, some seconds)", file=sys.stderr)
    for stale in file.parent.glob(f".{file.name}.*"):  # of a process that was killed at this point
        stale.unlink()
    scratch = file.with_name(f".{file.name}.{os.getpid()}.{time.time_ns()}")
    try:
        SqlAlchemyStore(sqlite_uri(scratch), artifact_root(file)).engine.dispose()
        scratch.replace(file)
    finally:
        scratch.unlink(missing_ok=True)

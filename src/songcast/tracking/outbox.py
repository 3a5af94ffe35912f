"""What MLflow could not be told yet: kept in files, delivered when the store is back.

``mlruns/undelivered/`` holds one file per process that met a dead store, one JSON record per
line, in the order in which they are to be sent. The process itself tries again; what it leaves
behind, ``deliver_kept`` sends: `songcast sync`, and the stages that report and register.
"""

import fcntl
import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from songcast.bundle import read_manifest
from songcast.errors import BundleError
from songcast.tracking.parent import PARENT
from songcast.tracking.send import (
    active_run,
    create_run,
    finished_run,
    open_parent,
    send_bundle,
    send_file,
    send_metrics,
    send_params,
)
from songcast.tracking.store import clear_errors, connect, experiment_id, home, tracking_uri

Record = Mapping[str, Any]
# Given a record and the run's id, if there is one yet: sends it and returns the run's id.
Send = Callable[[Record, str | None], str | None]


def folder() -> Path:
    """Return where records wait."""
    return home() / "undelivered"


class Outbox:
    """The records of one process, in a file that is made with the first of them.

    The file is locked by the process that writes or delivers it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[str] | None = None

    def keep(self, record: Record) -> None:
        """Add a record. Raises ``OSError``."""
        self._write(record)

    def deliver(self, send: Send) -> None:
        """Hand the records to ``send``, in their order, then forget them.

        Each is noted when ``send`` has returned, so whatever ``send`` raises, the next attempt
        goes on with the record that failed.
        """
        if self._file is None:
            return
        run_id, waiting = self._read()
        for record in waiting:
            run_id = send(record, run_id)
            self._write({"delivered": run_id})
        self.path.unlink(missing_ok=True)
        self.close()

    @property
    def run_id(self) -> str | None:
        """The run that the records belong to, None where it was not made yet."""
        return self._read()[0]

    def open(self) -> bool:
        """Open the file and lock it; False where another process holds it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self.path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        self._file = file
        file.write("\n")  # ends what a kill left half written
        return True

    def close(self) -> None:
        """Leave the file, if it is there still, to others."""
        if self._file is not None:
            with suppress(OSError):  # what a full disk did not take was told of before
                self._file.close()
            self._file = None

    def _write(self, record: Record) -> None:
        if self._file is None:
            self.open()
        if self._file is not None:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()

    def _read(self) -> tuple[str | None, list[Record]]:
        """Return the run's id, as far as it is known, and the records still to be sent."""
        run_id, delivered, records = None, 0, []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if "delivered" in record:
                delivered += 1
            else:
                records.append(record)
            run_id = record.get("delivered") or record.get("run_id") or run_id
        return run_id, records[delivered:]


def send_record(client: Any, run_id: str, record: Record) -> None:
    """Send one record of a run that was started."""
    match record:
        case {"metrics": points}:
            send_metrics(client, run_id, points)
        case {"artifact": path, "folder": place}:
            send_file(client, run_id, Path(path), place)
        case {"bundle": path}:
            send_bundle(client, run_id, Path(path))
        case {"end": status, "ms": ms}:
            client.set_terminated(run_id, status=status, end_time=ms)
            parent = client.get_run(run_id).data.tags.get(PARENT)
            if parent and client.get_run(parent).info.status != "FINISHED":
                client.set_terminated(parent, status=status, end_time=ms)


def deliver_kept() -> list[str]:
    """Send what waits from processes that have ended; return one line for each.

    Raises ``TrackingError`` where the store cannot be reached; what was not sent goes on waiting,
    and so does what belongs to a run that was deleted or is in another store.
    """
    said: list[str] = []
    for path in sorted(folder().glob("*.jsonl")):
        with _opened(path) as outbox:
            if outbox is None:
                said.append(f"{path.name}: still being written, left alone")
                continue
            uri = tracking_uri()
            with clear_errors(uri):
                client = connect(uri)
                run_id = outbox.run_id
                if run_id is not None and active_run(client, run_id) is None:
                    said.append(f"{path.name}: run {run_id} is not in this store, left alone")
                    continue
                later = _Later(client, path.name.partition("-")[0])
                outbox.deliver(later.send)
                said.append(later.close())
    return said


class _Later:
    """Sends what a stage kept that has ended: nobody is there to resume its run or to watch it."""

    def __init__(self, client: Any, stage: str) -> None:
        self._client = client
        self._stage = stage
        self._run_id: str | None = None
        self._lost: list[str] = []

    def send(self, record: Record, run_id: str | None) -> str | None:
        """Send one record; a file that is gone or another by now is passed over."""
        self._run_id = run_id or self._run_id
        if "start" in record:
            self._run_id = self._run_id or self._create(record)
            # Of a run that was made before its server died, these may be missing too.
            send_params(self._client, self._run_id, record["start"])
            return self._run_id
        if self._run_id is None:
            return None
        missing = self._missing(record)
        if missing:
            self._lost.append(missing)
        else:
            send_record(self._client, self._run_id, record)
        return self._run_id

    def close(self) -> str:
        """Mark a run that was killed without a word, and say what was delivered."""
        if self._run_id is None:
            return f"{self._stage}: nothing was left to deliver"
        if self._client.get_run(self._run_id).info.status == "RUNNING":
            send_record(self._client, self._run_id, {"end": "KILLED", "ms": now_ms()})
        lost = f" ({'; '.join(self._lost)})" if self._lost else ""
        return f"{self._stage}: delivered to run {self._run_id}{lost}"

    def _create(self, record: Record) -> str:
        parent = open_parent(self._client, experiment_id(self._client), self._stage)
        return create_run(self._client, self._stage, record["tags"], parent, start_ms=record["ms"])

    def _missing(self, record: Record) -> str | None:
        """Say why the files of a record can be sent no more, None where they can."""
        if "artifact" in record and not Path(record["artifact"]).exists():
            return f"{record['artifact']} is gone"
        if "bundle" in record:
            try:
                found = read_manifest(Path(record["bundle"]))["weights_sha256"]
            except BundleError as error:
                return str(error)
            if found != record["weights_sha256"]:
                return f"{record['bundle']} holds other weights by now"
            experiment = experiment_id(self._client)
            if finished_run(self._client, experiment, self._stage, found):
                return f"{record['bundle']} was logged since"
        return None


@contextmanager
def _opened(path: Path) -> Iterator[Outbox | None]:
    outbox = Outbox(path)
    try:
        yield outbox if outbox.open() else None
    finally:
        outbox.close()


def own_path(stage: str) -> Path:
    """Return the file of this process."""
    return folder() / f"{stage}-{secrets.token_hex(4)}.jsonl"


def now_ms() -> int:
    """Return milliseconds since 1970."""
    return time.time_ns() // 1_000_000

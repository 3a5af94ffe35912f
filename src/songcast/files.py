"""Files and folders that are either whole or not there."""

import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TEMPORARY_PREFIX = ".songcast-"


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a new empty file beside ``path``; it takes the name ``path`` when the block succeeds.

    On an exception it is removed and ``path`` is what it was. Data reaches the disk before the
    name does, so after a power cut ``path`` is the old file or the new one. A killed process
    leaves at most a ``.songcast-*`` file, for ``sweep`` to find. The suffix is kept: encoders
    look at it. Raises ``OSError``.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "note.txt"
    >>> with atomic_path(target) as temporary:
    ...     _ = temporary.write_text("whole")
    >>> target.read_text()
    'whole'
    """
    target = Path(path)
    temporary = target.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{target.suffix}")
    handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        with suppress(OSError):  # a network's file system may have no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield temporary
        sync_file(temporary)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)
    sync_folder(target.parent)


def sweep(folder: Path) -> None:
    """Remove from ``folder`` the half-written files of processes that were killed.

    Who still writes holds a lock.
    """
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        with suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a new empty folder beside ``path``; it takes the name ``path`` when the block succeeds.

    On an exception it is removed and ``path`` is what it was. A folder cannot be renamed over
    another, so the old one stands aside for a moment: a process killed in that moment leaves it
    there, and the next call puts it back. Raises ``OSError``.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "notes"
    >>> with atomic_folder(target) as temporary:
    ...     _ = (temporary / "note.txt").write_text("whole")
    >>> [path.name for path in target.iterdir()]
    ['note.txt']
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.writing")
    aside = target.with_name(f".{target.name}.replaced")
    _put_back(aside, target)
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(aside, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for found in temporary.rglob("*"):
            (sync_folder if found.is_dir() else sync_file)(found)
        sync_folder(temporary)
        if target.exists():
            target.rename(aside)
        temporary.rename(target)
    except BaseException:
        _put_back(aside, target)
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _put_back(aside: Path, target: Path) -> None:
    if aside.exists() and not target.exists():
        aside.rename(target)


def sync_file(path: Path) -> None:
    """Make the content of a file, whoever wrote it, survive a power cut. Raises ``OSError``."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make the renames in ``folder`` survive a power cut (a no-op where folders have no fsync)."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


def write_json(path: str | os.PathLike[str], value: object) -> None:
    """Write ``value`` as indented JSON, atomically.

    Keys keep their order, text stays readable. Raises ``ValueError`` for NaN and infinities,
    which JSON does not have.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file atomically, creating its folder."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sha256_of_file(path: str | os.PathLike[str]) -> str:
    """Hex digest of the file's bytes, read in a stream."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


DATA = "data"
PREPARED = "prepared"
MODELS = "models"
METRICS = "metrics"
PLOTS = "plots"
LISTENING = "listening"
REPORT = "report.html"
REGISTERED = "registered.json"
FEATURES = "features"
CHECKPOINTS = "checkpoints"
PARAMS = "params.yaml"


def root() -> Path:
    """Return the repository root, absolute.

    ``DVC_ROOT`` where DVC runs a stage; else the nearest folder from here upwards with a
    dvc.yaml or params.yaml; else the current folder.
    """
    told = os.environ.get("DVC_ROOT")
    if told:
        return Path(told).resolve()
    here = Path.cwd().resolve()
    marks = ("dvc.yaml", PARAMS)
    return next((p for p in (here, *here.parents) if any((p / m).is_file() for m in marks)), here)

"""Atomic files and folders, digests, and the names of the files in the repository."""

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

# Files and folders of the repository, relative to ``root()``.
DATA = "data"
PREPARED = "prepared"
MODELS = "models"
METRICS = "metrics"
DATA_REPORT = f"{METRICS}/data.json"
PLOTS = "plots"
EVALUATED = "evaluated"
LISTENING = "listening"
REPORT = "report.html"
REGISTERED = "registered.json"
FEATURES = "features"
CHECKPOINTS = "checkpoints"
PARAMS = "params.yaml"


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a new empty file beside ``path``; it takes the name ``path`` when the block succeeds.

    An exception removes it and leaves ``path`` unchanged. Data reaches the disk before the name
    does, so after a power cut ``path`` is the old file or the new one. A killed process leaves at
    most a ``.songcast-*`` file, which ``sweep`` removes. The suffix is kept for encoders. Raises
    ``OSError``.
    """
    target = Path(path)
    temporary = target.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{target.suffix}")
    handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        with suppress(OSError):  # a network file system may not support locks
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
    """Remove from ``folder`` the files that killed processes left; running ones hold a lock."""
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        with suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a new empty folder beside ``path``; it takes the name ``path`` when the block succeeds.

    An exception removes it and leaves ``path`` unchanged. A folder cannot replace another one in
    a single step, so the old one has another name for a moment; if the process is killed in that
    moment, the next call restores it. Raises ``OSError``.
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
        for entry in temporary.rglob("*"):
            (sync_folder if entry.is_dir() else sync_file)(entry)
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
    """Flush the content of a file to the disk. Raises ``OSError``."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Flush the names in ``folder`` to the disk, where the system supports it."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_json(path: str | os.PathLike[str], value: object) -> None:
    """Write ``value`` as indented JSON, atomically.

    Keys keep their order; text is not escaped. Raises ``ValueError`` for NaN and infinities,
    which JSON does not have.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file atomically, creating its folder."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sha256_of_file(path: str | os.PathLike[str]) -> str:
    """Return the hex digest of a file, read in blocks."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def user_cache() -> Path:
    """Return the folder of this user and machine for what can be fetched or computed again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "songcast"


def root() -> Path:
    """Return the repository root, absolute.

    That is ``DVC_ROOT`` in a stage that DVC runs, which in a queued experiment is not the folder
    that the stage works in; else the nearest of the current folder and its parents with a dvc.yaml
    or params.yaml; else the current folder.
    """
    dvc_root = os.environ.get("DVC_ROOT")
    if dvc_root:
        return Path(dvc_root).resolve()
    here = Path.cwd().resolve()
    marks = ("dvc.yaml", PARAMS)
    return next((p for p in (here, *here.parents) if any((p / m).is_file() for m in marks)), here)

"""Digests of files, computed once per file: an unchanged one is known by its status."""

import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from songcast.files import sha256_of_file, write_json

# A file changed this shortly before it is read could change again within the clock's tick.
SETTLED_NS = 2_000_000_000

Status = list[int]  # size, time of the last change in ns, inode


def digests_of(files: Sequence[Path], cache: Path) -> list[str]:
    """Return the sha256 of each file; read are those whose status is not in ``cache``.

    ``cache`` is a JSON file, written anew where something changed; it may be deleted at any
    time. Raises ``OSError``.
    """
    known = _read(cache)
    now_ns = time.time_ns()
    found: dict[str, tuple[Status, str]] = {}

    def digest(file: Path) -> str:
        status = _status(file)
        name = os.fsencode(file.absolute()).decode("utf-8", "backslashreplace")
        before, sha256 = known.get(name, ([], ""))
        if before != status:
            sha256 = sha256_of_file(file)
        if now_ns - status[1] > SETTLED_NS and _status(file) == status:
            found[name] = (status, sha256)
        return sha256

    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(digest, files))
    if found != known:
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_json(cache, found)
    return digests


def _status(file: Path) -> Status:
    status = file.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _read(cache: Path) -> dict[str, tuple[Status, str]]:
    try:
        document = json.loads(cache.read_text(encoding="utf-8"))
        return {name: (status, sha256) for name, (status, sha256) in document.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}

"""Digests of files. A file whose status is unchanged is not read again."""

import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from songcast.files import sha256_of_file, write_json

# A file that changed this recently could change again within one tick of the clock.
SETTLED_NS = 2_000_000_000

Status = list[int]  # size, time of the last change in ns, inode


def digests_of(files: Sequence[Path], cache: Path) -> list[str]:
    """Return the sha256 of each file, from ``cache`` where the status of the file is there.

    ``cache`` is a JSON file that is updated and may be deleted at any time. Raises ``OSError``.
    """
    cached = _read(cache)
    now_ns = time.time_ns()
    current: dict[str, tuple[Status, str]] = {}

    def digest(file: Path) -> str:
        status = _status(file)
        name = os.fsencode(file.absolute()).decode("utf-8", "backslashreplace")
        before, sha256 = cached.get(name, ([], ""))
        if before != status:
            sha256 = sha256_of_file(file)
        if now_ns - status[1] > SETTLED_NS and _status(file) == status:
            current[name] = (status, sha256)
        return sha256

    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(digest, files))
    if current != cached:
        write_json(cache, current)
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

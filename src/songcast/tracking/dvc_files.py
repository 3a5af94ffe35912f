"""Mends what DVC leaves half-written when it is killed, or meets a full disk, while it writes.

Run before `dvc repro`, as ``python -m songcast.dvc_files``. DVC writes two of its own files in
place: ``.dvc/tmp/rwlock``, which is then empty, and ``dvc.lock``, which is then cut off; it starts
with neither. Of dvc.lock the last whole one is kept. The stages that ran since are not lost with
it: DVC finds what they made in its cache.
"""

import fcntl
from contextlib import suppress
from pathlib import Path

from songcast.files import atomic_path, root

CONFLICT = b"<<<<<<<"


def main() -> None:
    """Mend the files of this repository, and say so."""
    if mend(root()):
        print("dvc.lock was cut off while DVC wrote it: the one before it is back", flush=True)


def mend(home: Path) -> bool:
    """Mend DVC's files in the repository ``home``; tell whether dvc.lock was mended.

    Nothing is touched while DVC is at work there, nor a dvc.lock with conflicts to be resolved.
    What cannot be read or written is left to DVC to complain of.
    """
    scratch = home / ".dvc" / "tmp"
    with suppress(OSError), (scratch / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # DVC's own: held while it writes
        _mend_rwlock(scratch / "rwlock")
        return _mend_lock(home / "dvc.lock", scratch / "dvc.lock")
    return False


def _mend_rwlock(rwlock: Path) -> None:
    if rwlock.is_file() and not rwlock.stat().st_size:
        rwlock.unlink()


def _mend_lock(lock: Path, kept: Path) -> bool:
    """Keep a copy of a whole dvc.lock; put the copy in the place of one that was cut off."""
    found, before = lock.read_bytes(), kept.read_bytes() if kept.is_file() else None
    if found == before or CONFLICT in found:
        return False
    if _is_whole(found):
        _write(kept, found)
    elif before is not None:
        _write(lock, before)
        return True
    return False


def _is_whole(content: bytes) -> bool:
    import yaml

    try:
        return content.endswith(b"\n") and "schema" in yaml.safe_load(content)
    except (yaml.YAMLError, TypeError):
        return False


def _write(path: Path, content: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


if __name__ == "__main__":
    main()

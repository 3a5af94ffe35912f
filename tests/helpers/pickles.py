"""Finds pickles by name and by what is in them. Not a test module."""

import io
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path

SUFFIXES = (".pkl", ".pickle", ".cloudpickle", ".joblib", ".dill", ".pt", ".pth", ".nbi", ".nbc")
# What a pickle needs to call anything; without one of these it is data at worst.
CALLS = {"GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "REDUCE", "BUILD"}


def pickles_below(folder: Path) -> list[str]:
    """Names of all pickles in a folder, those inside archives too."""
    return [
        name
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        for name, blob in members(path.relative_to(folder).as_posix(), path.read_bytes())
        if name.endswith(SUFFIXES) or is_pickle(blob) or holds_objects(name, blob)
    ]


def members(name: str, blob: bytes) -> Iterator[tuple[str, bytes]]:
    """The file and, where it is an archive, all that is in it."""
    yield name, blob
    if zipfile.is_zipfile(io.BytesIO(blob)):
        with zipfile.ZipFile(io.BytesIO(blob)) as archive:
            for member in archive.namelist():
                yield from members(f"{name}:{member}", archive.read(member))


def is_pickle(blob: bytes) -> bool:
    try:
        names = {opcode.name for opcode, _, _ in pickletools.genops(blob)}
    except Exception:  # what is none ends in many ways
        return False
    return bool(names & CALLS) or blob[:1] == b"\x80"


def holds_objects(name: str, blob: bytes) -> bool:
    """NumPy writes arrays of Python objects as pickles behind its own header."""
    return name.endswith(".npy") and b"|O" in blob[:200]

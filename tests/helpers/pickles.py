"""Find pickles by name and by content."""

import io
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path

SUFFIXES = (".pkl", ".pickle", ".cloudpickle", ".joblib", ".dill", ".pt", ".pth", ".nbi", ".nbc")
# The opcodes that import or call something. Without them a pickle is only data.
CALLS = {"GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "REDUCE", "BUILD"}


def pickles_below(folder: Path) -> list[str]:
    """Return the names of all pickles in a folder, including those inside archives."""
    return [
        name
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        for name, blob in members(path.relative_to(folder).as_posix(), path.read_bytes())
        if name.endswith(SUFFIXES) or is_pickle(blob) or holds_objects(name, blob)
    ]


def members(name: str, blob: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the file and, if it is an archive, its members."""
    yield name, blob
    if zipfile.is_zipfile(io.BytesIO(blob)):
        with zipfile.ZipFile(io.BytesIO(blob)) as archive:
            for member in archive.namelist():
                yield from members(f"{name}:{member}", archive.read(member))


def is_pickle(blob: bytes) -> bool:
    try:
        names = {opcode.name for opcode, _, _ in pickletools.genops(blob)}
    except Exception:  # other files raise many kinds of errors
        return False
    return bool(names & CALLS) or blob[:1] == b"\x80"


def holds_objects(name: str, blob: bytes) -> bool:
    """NumPy writes arrays of Python objects as pickles behind its own header."""
    return name.endswith(".npy") and b"|O" in blob[:200]

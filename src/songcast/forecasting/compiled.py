"""Decorators for functions that numba compiles, and the cache of the compiled code on disk.

numba's cache notices a change in the file of a function, but not in the files that this file
imports, from which helpers are inlined. Therefore each module has a cache folder whose name
contains a digest of its source and of everything that it imports from songcast.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numba

from songcast.data.code_digest import code_digest

_F = TypeVar("_F", bound=Callable[..., Any])

# Reassociation lets dot products vectorise; "ninf" and "nnan" stay off because resets test for
# infinity and NaN.
FAST = {"nsz", "arcp", "contract", "afn", "reassoc"}
PACKAGE = Path(__file__).parents[1]


def compiled(function: _F) -> _F:
    """Compile with numba; the compiled code is cached on disk and releases the GIL.

    Where no cache folder is writable, the function is compiled in each process.
    """
    folder = cache_folder(function.__module__)
    with _cache_in(folder):
        result: _F = numba.njit(cache=bool(folder), fastmath=FAST, nogil=True)(function)
    return result


def inlined(function: _F) -> _F:
    """Compile as a part of each compiled function that calls it; never cached alone.

    Without inlining, a function that compiled code calls exists twice, alone and in its caller's
    module. The two are optimised and thus rounded differently, and the cache decides which one
    runs.
    """
    result: _F = numba.njit(fastmath=FAST, nogil=True, forceinline=True)(function)
    return result


@lru_cache
def cache_folder(module: str) -> Path | None:
    """Return a writable folder for the compiled code of ``module``, or None.

    It is in ``NUMBA_CACHE_DIR`` if that is set, else in the package, else in ``~/.cache``.
    """
    name = f"songcast-{code_digest(module)[:16]}"
    for root in cache_roots():
        folder = root / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError:
            continue
        return folder
    return None


def cache_roots() -> list[Path]:
    """Return the folders that may hold compiled code, the preferred one first."""
    if numba.config.CACHE_DIR:
        return [Path(numba.config.CACHE_DIR)]
    roots = [PACKAGE / "__pycache__"]
    with suppress(RuntimeError):  # a user without a home
        roots.append(Path.home() / ".cache" / "songcast")
    return roots


@contextmanager
def _cache_in(folder: Path | None) -> Iterator[None]:
    """Let the functions that are decorated within the block use the cache ``folder``."""
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(folder or before)
    try:
        yield
    finally:
        numba.config.CACHE_DIR = before

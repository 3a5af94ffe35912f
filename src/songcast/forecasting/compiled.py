"""Decorators for functions that numba compiles, and the cache of the compiled code on disk.

numba's cache notices a change in the file of a function, but not in the files that this file
imports, from which helpers are inlined. Therefore each module has a cache folder whose name
contains a digest of its source and of everything that it imports from songcast. Nothing else
identifies the code: copies of the package can share a cache.
"""

import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba.core.caching import _CacheLocator

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
    cached = cache_folder(function.__module__) is not None
    before = numba.config.CACHE_LOCATOR_CLASSES
    numba.config.CACHE_LOCATOR_CLASSES = f"{__name__}.{DigestLocator.__name__}"
    try:
        result: _F = numba.njit(cache=cached, fastmath=FAST, nogil=True)(function)
    finally:
        numba.config.CACHE_LOCATOR_CLASSES = before
    return result


class DigestLocator(_CacheLocator):
    """Locates the compiled code of a function for numba, by the digest of its source."""

    def __init__(self, folder: Path, line: int) -> None:
        self._folder, self._line = folder, line

    @classmethod
    def from_function(cls, function: Callable[..., Any], _file: str) -> "DigestLocator | None":
        """Return the locator of ``function``; None if no cache folder is writable."""
        folder = cache_folder(function.__module__)
        return cls(folder, function.__code__.co_firstlineno) if folder else None

    def get_cache_path(self) -> str:
        """Return the folder of the function's module."""
        return str(self._folder)

    def get_source_stamp(self) -> str:
        """Return the digest, which never differs within a folder."""
        return self._folder.name

    def get_disambiguator(self) -> str:
        """Return the line of the function, which is part of the file name."""
        return str(self._line)


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

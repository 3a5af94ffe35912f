"""The server's memory: what a model that is gone leaves behind, and holes in the C heap.

glibc keeps an arena for each busy thread, and what is free in one serves no other thread: what
is in use stayed the same over hundreds of songs, and the arenas grew around it. Under another C
library than glibc none of that is done.
"""

import ctypes
import gc
import sys
import time
from collections.abc import Callable

# As many as there are workers by default. What sharing costs in time has not been measured.
ARENAS = 2
M_ARENA_MAX = -8  # of <malloc.h>
TRIM_SECONDS = 30.0


def limit_arenas() -> bool:
    """Let all threads share ``ARENAS``, and tell whether they do; call it before they start."""
    mallopt = _glibc("mallopt")
    return mallopt is not None and mallopt(M_ARENA_MAX, ARENAS) == 1


def sweep() -> None:
    """Free what a model that is gone has left, and give free memory back to the system."""
    # Keras networks are rings of references: left to itself, each keeps some 10 MB.
    gc.collect()
    _forget_kernels()
    trim()


def trim() -> None:
    """Give what is free in the C heap back to the system."""
    malloc_trim = _glibc("malloc_trim")
    if malloc_trim:
        malloc_trim(0)


class Trimmer:
    """Trims when it is called, but not again within ``TRIM_SECONDS``."""

    def __init__(self) -> None:
        self._due = 0.0

    def __call__(self) -> None:
        """Call it after the work of a request."""
        now = time.monotonic()
        if now >= self._due:
            self._due = now + TRIM_SECONDS
            trim()


def _forget_kernels() -> None:
    """Empty TensorFlow's cache of kernels, where it runs: those in use are made again, in 0.1 s.

    It keeps those of functions that are gone, 0.1 MB for each model. Keras' ``clear_session`` does
    this too, but takes the scopes from a network that is being built beside.
    """
    eager = sys.modules.get("tensorflow.python.eager.context")
    if eager:
        eager.context().clear_kernel_cache()


def _glibc(name: str) -> Callable[..., int] | None:
    """Return a function of the C library, None where it has none of that name."""
    try:
        found: Callable[..., int] | None = getattr(ctypes.CDLL(None), name, None)
    except (OSError, TypeError):  # TypeError: Windows has no library without a name
        return None
    return found

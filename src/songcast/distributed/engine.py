"""The same work on many songs: on this machine's cores, or on a Ray cluster.

params.yaml says which (``engine``). The results are the same; only who works differs.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing.connection import wait as wait_for_end
from multiprocessing.context import BaseContext
from multiprocessing.forkserver import ensure_running
from threading import Thread
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

from songcast.errors import CorpusError

if TYPE_CHECKING:
    from songcast.config import Engine

Item = TypeVar("Item")
Result = TypeVar("Result")


def each(
    engine: "Engine", work: Callable[[Item], Result], items: Sequence[Item]
) -> Iterator[Result]:
    """Yield ``work(item)`` for every item, as they are done: in no particular order.

    ``work`` is a function of a module, and items and results can be pickled. An exception of
    ``work`` stops the rest and is raised here. Raises ``CorpusError`` where workers die.
    """
    if engine == "ray":
        from songcast.distributed import cluster

        yield from cluster.each(work, items)
    elif min(free_cores(), len(items)) < 2:
        yield from map(work, items)
    else:
        yield from _in_processes(work, items, min(free_cores(), len(items)))


def wake(work: Callable[..., object]) -> None:
    """Let what starts the processes of ``each(work)`` boot, while the caller does other things.

    It takes a third of a second, which few songs cannot share out. Nothing waits for it.
    """
    if free_cores() > 1:
        _context(work)
        # Until it has booted, Ctrl-C would show its traceback; it is not what has to stop.
        heard = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            ensure_running()
        finally:
            signal.signal(signal.SIGINT, heard)


def free_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _in_processes(
    work: Callable[[Item], Result], items: Sequence[Item], processes: int
) -> Iterator[Result]:
    """Processes, not threads: soxr keeps Python's lock while it resamples."""
    rest = iter(items)
    with ProcessPoolExecutor(processes, _context(work), initializer=_prepare_worker) as pool:
        try:
            # A few songs ahead: ten thousand waiting ones would only take memory.
            ensure_running()
            with _undisturbed(), _main_hidden():
                running: set[Future[Result]] = {
                    pool.submit(work, item) for item in islice(rest, 2 * processes)
                }
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                running |= {pool.submit(work, item) for item in islice(rest, len(done))}
                for task in done:
                    yield task.result()
        except BrokenProcessPool as error:
            raise CorpusError(
                "a worker died, perhaps for lack of memory; run it again: what is done stays done"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _context(work: Callable[..., object]) -> BaseContext:
    """Return how processes are started: as copies of one that has loaded ``work``'s module."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([work.__module__])
    return context


@contextmanager
def _main_hidden() -> Iterator[None]:
    """Start processes that do not load the program's main module, which they never call.

    Each would load all of a stage again, or run a script that has no guard.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Stop only when the processes are there: one that boots without us would say so at length."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _prepare_worker() -> None:
    """Die with the parent, even one that was killed, and on Ctrl-C without a word."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    if parent is not None:
        sentinel = parent.sentinel

        def follow() -> None:
            wait_for_end([sentinel])
            os._exit(1)

        Thread(target=follow, daemon=True).start()

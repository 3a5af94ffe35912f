"""The same work on many songs: on the cores of this machine, or on a Ray cluster.

``engine`` in params.yaml selects which. The results are the same.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing.connection import wait as wait_for_end
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
    """Yield ``work(item)`` of every item, in the order of completion.

    ``work`` is a function of a module, and items and results can be pickled. An exception of
    ``work`` stops the rest and is raised here. Raises ``CorpusError`` if a worker dies.
    """
    if engine == "ray":
        from songcast.distributed import cluster

        yield from cluster.each(work, items)
    elif min(free_cores(), len(items)) < 2:
        yield from map(work, items)
    else:
        yield from _in_processes(work, items, min(free_cores(), len(items)))


def each_in_threads(
    engine: "Engine", work: Callable[[Item], Result], items: Sequence[Item]
) -> Iterator[Result]:
    """Yield ``work(item)`` of every item as ``each`` does, but here in threads, and in order.

    For compiled code, which releases the interpreter lock.
    """
    if engine == "ray":
        yield from each(engine, work, items)
        return
    with ThreadPoolExecutor(free_cores()) as pool:
        yield from pool.map(work, items)


def free_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _in_processes(
    work: Callable[[Item], Result], items: Sequence[Item], processes: int
) -> Iterator[Result]:
    """Use processes, not threads: soxr holds the interpreter lock while it resamples."""
    # Forks processes from one that has imported the module of ``work``.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([work.__module__])
    rest = iter(items)
    with ProcessPoolExecutor(processes, context, initializer=_prepare_worker) as pool:
        try:
            # Submit few items in advance: ten thousand pending ones would need memory.
            with _main_hidden():
                running = {pool.submit(work, item) for item in islice(rest, 2 * processes)}
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                running |= {pool.submit(work, item) for item in islice(rest, len(done))}
                for task in done:
                    yield task.result()
        except BrokenProcessPool as error:
            raise CorpusError(
                "a worker died, perhaps for lack of memory; run again to do what is left"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _main_hidden() -> Iterator[None]:
    """Start processes that do not import the main module, which they never call.

    Each would import a whole stage again, or run a script that has no guard.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _prepare_worker() -> None:
    """End with the parent, even if that is killed, and silently on Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    if parent is not None:
        sentinel = parent.sentinel

        def follow() -> None:
            wait_for_end([sentinel])
            os._exit(1)

        Thread(target=follow, daemon=True).start()

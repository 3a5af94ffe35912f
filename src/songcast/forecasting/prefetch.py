"""A thread that works one item ahead of whoever asks for the results."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(
    work: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[tuple[Item, Result]]:
    """Yield each item with ``work(item)``, in order, while a thread works on the next one.

    At most one result waits to be asked for. What ``work`` raises is raised here, and no later
    item is begun; nor is one when the iterator is closed, which waits for the thread.
    """
    waiting: list[tuple[Item, Future[Result]]] = []
    with ThreadPoolExecutor(1) as pool:
        for item in items:
            done = [(earlier, future.result()) for earlier, future in waiting]
            waiting = [(item, pool.submit(work, item))]
            yield from done
        yield from ((last, future.result()) for last, future in waiting)

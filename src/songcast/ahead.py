"""Threads that work some items ahead of whoever asks for the results."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int = 1
) -> Iterator[tuple[Item, Result]]:
    """Yield each item with ``work(item)``, in order, while threads work on the next ones.

    At most ``threads`` results wait to be asked for. What ``work`` raises is raised here, and no
    later item is begun; nor is one when the iterator is closed, which waits for the threads.
    """
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            done = [waiting.popleft()] if len(waiting) == threads else []
            results = [(earlier, future.result()) for earlier, future in done]
            waiting.append((item, pool.submit(work, item)))
            yield from results
        yield from ((last, future.result()) for last, future in waiting)

"""The queue: a bounded number of requests, a few worked on at once, each with a deadline."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TypeVar

from songcast.serving.decoder import Decoder
from songcast.serving.heap import Trimmer
from songcast.serving.limits import Limits, RefusedError

Result = TypeVar("Result")
Item = TypeVar("Item")
Gone = Callable[[], Awaitable[bool]]

# How often a waiting request looks whether its client is still there.
LOOK_SECONDS = 0.5
# How many blocks of a stream are made ahead of a slow client.
AHEAD = 4


class Job:
    """One request's right to work. ``check`` is called between blocks and ends what is late."""

    def __init__(self, seconds: float, stopping: threading.Event) -> None:
        self.seconds = seconds
        self._deadline = time.monotonic() + seconds
        self._stopping = stopping
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Let the work end at its next check: nobody waits for it."""
        self._cancelled.set()

    def check(self) -> None:
        """Raise ``RefusedError`` where the work is late, cancelled, or the server stops."""
        if self._cancelled.is_set():
            raise RefusedError(503, "cancelled: the client went away")
        if self._stopping.is_set():
            raise RefusedError(503, "the server is stopping: try again later")
        if self.left <= 0:
            raise RefusedError(503, f"not done within {self.seconds:g} s: try again later")

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits any more."""
        return self._cancelled.is_set()

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self._deadline - time.monotonic()


class Work:
    """Runs the work of requests in a few threads, each with its own decoding process."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.taken = 0
        self._stopping = threading.Event()
        self._local = threading.local()
        self._decoders: list[Decoder] = []
        self._trim = Trimmer()
        self._pool = ThreadPoolExecutor(limits.workers, thread_name_prefix="work")

    @contextmanager
    def place(self) -> Iterator[Job]:
        """Hold one of the places within the block. Raises ``RefusedError`` (429) without one."""
        if self.taken >= self.limits.places:
            raise RefusedError(429, "too many requests at once: try again in some seconds")
        self.taken += 1
        job = Job(self.limits.request_seconds, self._stopping)
        try:
            yield job
        finally:
            job.cancel()
            self.taken -= 1

    async def run(self, job: Job, task: Callable[[Decoder], Result], gone: Gone) -> Result:
        """Return what ``task`` returns; it runs in a worker, which gives it its decoder."""

        def work() -> Result:
            job.check()
            try:
                return task(self._decoder())
            finally:
                self._trim()

        future = asyncio.get_running_loop().run_in_executor(self._pool, work)
        while True:
            done, _ = await asyncio.wait({future}, timeout=LOOK_SECONDS)
            if done:
                return future.result()
            if await gone() or job.left <= -2 * LOOK_SECONDS:
                job.cancel()
                future.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
                raise RefusedError(503, f"not done within {job.seconds:g} s: try again later")

    async def stream(
        self, job: Job, task: Callable[[Decoder], Iterator[Item]]
    ) -> AsyncGenerator[Item]:
        """Yield what ``task`` yields in a worker, never more than a few items ahead."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Item | BaseException | None] = asyncio.Queue(AHEAD)

        def put(item: Item | BaseException | None) -> None:
            waiting = asyncio.run_coroutine_threadsafe(queue.put(item), loop)
            while not (waiting.done() or job.cancelled):
                with suppress(TimeoutError):
                    waiting.result(timeout=LOOK_SECONDS)
            waiting.cancel()

        def work() -> None:
            try:
                job.check()
                for item in task(self._decoder()):
                    job.check()
                    put(item)
                put(None)
            except BaseException as error:
                put(error)
            finally:
                self._trim()

        future = loop.run_in_executor(self._pool, work)
        try:
            while (item := await queue.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            job.cancel()
            future.add_done_callback(lambda ended: ended.cancelled() or ended.exception())

    def stop(self) -> None:
        """End what is under way at its next check, and the decoding processes."""
        self._stopping.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        for decoder in self._decoders:
            decoder.close()

    def _decoder(self) -> Decoder:
        if not hasattr(self._local, "decoder"):
            self._local.decoder = Decoder(self.limits)
            self._decoders.append(self._local.decoder)
        decoder: Decoder = self._local.decoder
        return decoder

"""The job queue: a bounded number of requests, a few worker threads, a deadline for each job."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from songcast.serving.decoder import Decoder

Result = TypeVar("Result")
Item = TypeVar("Item")

# Interval of the check whether the client of a waiting request has disconnected.
POLL_SECONDS = 0.5
# Number of blocks of a stream that may wait for a slow client.
QUEUED_BLOCKS = 4


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of one request, and of all requests together.

    ``body_bytes``: enough for ``max_frames`` of stereo wav in base64. ``max_frames``: 300 s at
    48 kHz; the computing time depends on frames, not on seconds. ``max_requests``: requests that
    are received, queued or processed at a time; ``workers`` of them are processed.
    ``decoding_bytes``: address space of a decoder process.
    """

    body_bytes: int = 80 * 2**20
    max_frames: int = 300 * 48_000
    max_songs: int = 16
    continuation_seconds: float = 300.0
    max_requests: int = 16
    workers: int = 2
    request_seconds: float = 300.0
    decoding_seconds: float = 60.0
    decoding_bytes: int = 4 * 2**30


class RequestError(Exception):
    """A request ends with an error. ``status``: of HTTP; the message is one line."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Job:
    """One request: its deadline and whether it is cancelled."""

    def __init__(self, seconds: float, stopping: threading.Event) -> None:
        self.seconds = seconds
        self._deadline = time.monotonic() + seconds
        self._stopping = stopping
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """End the job at its next ``check``."""
        self._cancelled.set()

    def check(self) -> None:
        """Raise ``RequestError`` if the job is late or cancelled, or the server is stopping."""
        if self._cancelled.is_set():
            raise RequestError(503, "cancelled: the client disconnected")
        if self._stopping.is_set():
            raise RequestError(503, "the server is stopping: try again later")
        if self.seconds_left <= 0:
            raise self.late()

    def late(self) -> RequestError:
        """Return the error for a job that misses its deadline."""
        return RequestError(503, f"not finished within {self.seconds:g} s: try again later")

    @property
    def cancelled(self) -> bool:
        """Whether the client has disconnected or has its response."""
        return self._cancelled.is_set()

    @property
    def seconds_left(self) -> float:
        """Seconds until the deadline; negative after it."""
        return self._deadline - time.monotonic()


class JobQueue:
    """Runs jobs in a few threads; each thread has its own decoder process."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._jobs = 0
        self._stopping = threading.Event()
        self._local = threading.local()
        self._decoders: list[Decoder] = []
        self._pool = ThreadPoolExecutor(limits.workers, thread_name_prefix="worker")

    @property
    def idle(self) -> bool:
        """Whether a worker has nothing to do."""
        return self._jobs < self.limits.workers and not self.stopping

    @property
    def stopping(self) -> bool:
        """Whether ``stop`` was called."""
        return self._stopping.is_set()

    @contextmanager
    def job(self) -> Iterator[Job]:
        """Count a request as in progress within the block.

        Raises ``RequestError`` (429) when ``max_requests`` are in progress already.
        """
        if self._jobs >= self.limits.max_requests:
            raise RequestError(429, "too many requests in progress: try again in a few seconds")
        self._jobs += 1
        job = Job(self.limits.request_seconds, self._stopping)
        try:
            yield job
        finally:
            job.cancel()
            self._jobs -= 1

    async def run(
        self,
        job: Job,
        task: Callable[[Decoder], Result],
        disconnected: Callable[[], Awaitable[bool]],
    ) -> Result:
        """Run ``task`` in a worker thread, with the decoder of that thread; return its result."""

        def work() -> Result:
            job.check()
            return task(self.decoder())

        future = asyncio.get_running_loop().run_in_executor(self._pool, work)
        while True:
            done, _ = await asyncio.wait({future}, timeout=POLL_SECONDS)
            if done:
                return future.result()
            if await disconnected() or job.seconds_left <= -2 * POLL_SECONDS:
                job.cancel()
                future.add_done_callback(_discard_result)
                raise job.late()

    async def stream(
        self, job: Job, task: Callable[[Decoder], Iterator[Item]]
    ) -> AsyncGenerator[Item]:
        """Yield the items of ``task``; it runs in a worker thread, which waits for slow clients."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Item | BaseException | None] = asyncio.Queue(QUEUED_BLOCKS)

        def put(item: Item | BaseException | None) -> None:
            pending = asyncio.run_coroutine_threadsafe(queue.put(item), loop)
            while not (pending.done() or job.cancelled):
                with suppress(TimeoutError):
                    pending.result(timeout=POLL_SECONDS)
            pending.cancel()

        def work() -> None:
            try:
                job.check()
                for item in task(self.decoder()):
                    job.check()
                    put(item)
                put(None)
            except BaseException as error:
                put(error)

        future = loop.run_in_executor(self._pool, work)
        try:
            while (item := await queue.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            job.cancel()
            future.add_done_callback(_discard_result)

    def stop(self) -> None:
        """End the running jobs at their next check, and the decoder processes."""
        self._stopping.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        for decoder in self._decoders:
            decoder.close()

    def decoder(self) -> Decoder:
        """Return the decoder of this thread."""
        if not hasattr(self._local, "decoder"):
            limits = self.limits
            self._local.decoder = Decoder(
                limits.max_frames, limits.decoding_seconds, limits.decoding_bytes
            )
            self._decoders.append(self._local.decoder)
        decoder: Decoder = self._local.decoder
        return decoder


def _discard_result(future: "asyncio.Future[Any]") -> None:
    """Retrieve the exception of an abandoned future; otherwise asyncio logs it."""
    if not future.cancelled():
        future.exception()

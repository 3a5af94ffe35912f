"""The job queue: a bounded number of requests, a few worker threads, a deadline for each job."""

import asyncio
import math
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from typing import Literal, Self, TypeVar

from songcast.serving.decoder import Decoder

Result = TypeVar("Result")
Item = TypeVar("Item")

# Interval of the check whether the client of a waiting request has disconnected.
POLL_SECONDS = 0.5
# Number of blocks of a stream that may wait for a slow client.
QUEUED_BLOCKS = 4
# ``Limits.for_speed``: the longest forecast, and the range of the longest song: 1 to 10 minutes
# at 48 kHz, because its samples are held in memory.
FORECAST_SECONDS = 900.0
FRAMES = (60 * 48_000, 600 * 48_000)
# The number of named jobs, also finished ones, whose progress can be asked for.
NAMED_JOBS = 64
CANCELLED = "cancelled: the client disconnected"

State = Literal["unknown", "receiving", "waiting", "decoding", "computing", "finished", "failed"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of one request, and of all requests together.

    ``body_bytes``: enough for 300 s of stereo wav in base64. ``max_frames``: the computing time
    depends on frames, not on seconds. ``max_requests``: requests that
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

    @classmethod
    def for_speed(cls, frames_per_second: float) -> Self:
        """Return the limits for a model that forecasts so many stereo frames per second.

        A song may take ``FORECAST_SECONDS`` to forecast alone, within ``FRAMES``. A request may
        take as long as the longest song with all workers busy, and a minute to arrive.

        >>> limits = Limits.for_speed(48_000.0)
        >>> limits.max_frames, limits.request_seconds
        (28800000, 1260.0)
        """
        lowest, highest = FRAMES
        frames = round(min(max(FORECAST_SECONDS * frames_per_second, lowest), highest))
        seconds = 60.0 + cls.workers * frames / frames_per_second
        return cls(
            max_frames=frames, request_seconds=max(float(math.ceil(seconds)), cls.request_seconds)
        )


class RequestError(Exception):
    """A request ends with an error. ``status``: of HTTP; the message is one line."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(kw_only=True)
class Progress:
    """How far a request is. ``seconds``: duration of the song, None before it is decoded."""

    state: State = "receiving"
    received_bytes: int = 0
    body_bytes: int | None = None
    seconds: float | None = None
    seconds_done: float = 0.0
    seconds_left: float | None = None
    prediction_gain_db: list[float] | None = None
    bits_per_sample: float | None = None
    error: str | None = None


class Job:
    """One request: its deadline and its progress.

    ``cancelled`` is set when the client has disconnected or has its response; the job then ends at
    its next ``check``.
    """

    def __init__(self, seconds: float, stopping: threading.Event) -> None:
        self.seconds = seconds
        self.progress = Progress()
        self._deadline = time.monotonic() + seconds
        self._stopping = stopping
        self.cancelled = threading.Event()

    def check(self) -> None:
        """Raise ``RequestError`` if the job is late or cancelled, or the server is stopping."""
        if self.cancelled.is_set():
            raise RequestError(503, CANCELLED)
        if self._stopping.is_set():
            raise RequestError(503, "the server is stopping: try again later")
        if self.seconds_left <= 0:
            raise self.late()

    def enter(self, state: State) -> None:
        """Set the state, unless the request has failed, which its worker may not know yet."""
        if self.progress.error is None:
            self.progress.state = state

    def fail(self, reason: str) -> None:
        """Set the state ``failed``; the first reason stays."""
        self.progress.error = self.progress.error or reason
        self.progress.state = "failed"

    def late(self) -> RequestError:
        """Return the error for a job that misses its deadline."""
        return RequestError(503, f"not finished within {self.seconds:g} s: try again later")

    @property
    def seconds_left(self) -> float:
        """Seconds until the deadline; negative after it."""
        return self._deadline - time.monotonic()


class JobQueue:
    """Runs jobs in a few threads; each thread has its own decoder process."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._jobs = 0
        self.named: dict[str, Job] = {}  # the last ``NAMED_JOBS`` of them, also finished ones
        self.stopping = threading.Event()  # set by ``stop``
        self._local = threading.local()
        self._decoders: list[Decoder] = []
        self._pool = ThreadPoolExecutor(limits.workers, thread_name_prefix="worker")

    @property
    def idle(self) -> bool:
        """Whether a worker has nothing to do."""
        return self._jobs < self.limits.workers and not self.stopping.is_set()

    @contextmanager
    def job(self, name: str | None = None) -> Iterator[Job]:
        """Count a request as in progress within the block; ``named`` has it by ``name``.

        Raises ``RequestError`` (429) when ``max_requests`` are in progress already.
        """
        if self._jobs >= self.limits.max_requests:
            raise RequestError(429, "too many requests in progress: try again in a few seconds")
        self._jobs += 1
        job = Job(self.limits.request_seconds, self.stopping)
        if name:
            self.named[name] = job
            while len(self.named) > NAMED_JOBS:
                del self.named[next(iter(self.named))]
        try:
            yield job
        except BaseException as error:
            job.fail(str(error) or CANCELLED)
            raise
        finally:
            job.cancelled.set()
            self._jobs -= 1

    async def run(
        self,
        job: Job,
        task: Callable[[Decoder], Result],
        disconnected: Callable[[], Awaitable[bool]],
    ) -> Result:
        """Run ``task`` in a worker thread, with the decoder of that thread; return its result."""

        items = self.stream(job, lambda decoder: iter([task(decoder)]), disconnected)
        async with aclosing(items):
            return await anext(items)

    async def stream(
        self,
        job: Job,
        task: Callable[[Decoder], Iterator[Item]],
        disconnected: Callable[[], Awaitable[bool]],
    ) -> AsyncGenerator[Item]:
        """Yield the items of ``task``; it runs in a worker thread, which waits for slow clients.

        ``disconnected`` is asked until the first item; later the response notices it.
        """
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Item | BaseException | None] = asyncio.Queue(QUEUED_BLOCKS)

        def put(item: Item | BaseException | None) -> None:
            pending = asyncio.run_coroutine_threadsafe(queue.put(item), loop)
            while not (pending.done() or job.cancelled.is_set()):
                with suppress(TimeoutError):
                    pending.result(timeout=POLL_SECONDS)
            pending.cancel()

        def work() -> None:
            try:
                job.check()
                job.enter("decoding")
                for item in task(self.decoder()):
                    job.check()
                    put(item)
                put(None)
            except BaseException as error:
                put(error)

        job.enter("waiting")
        future = loop.run_in_executor(self._pool, work)
        try:
            is_first = True
            while True:
                try:
                    async with asyncio.timeout(POLL_SECONDS if is_first else None):
                        item = await queue.get()
                except TimeoutError:
                    if job.seconds_left <= -2 * POLL_SECONDS:
                        raise job.late() from None
                    if await disconnected():
                        raise RequestError(503, CANCELLED) from None
                    continue
                is_first = False
                if item is None:
                    return
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            job.cancelled.set()
            # Otherwise asyncio logs the exception of a future that nobody waits for.
            future.add_done_callback(lambda done: done.cancelled() or done.exception())

    def stop(self) -> None:
        """End the running jobs at their next check, and the decoder processes."""
        self.stopping.set()
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

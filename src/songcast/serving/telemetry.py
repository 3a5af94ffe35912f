"""Counters for Prometheus."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from songcast.serving.champion import Champion

PATHS = ("/invocations", "/continue", "/ping", "/health", "/version", "/metrics", "/", "/docs")
SECONDS = (0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Telemetry:
    """What the server counts."""

    def __init__(self, champion: Champion) -> None:
        self._champion = champion
        self._registry = CollectorRegistry()
        counts = self._registry
        self._requests = Counter(
            "songcast_requests", "Answers", ["path", "status"], registry=counts
        )
        self._seconds = Histogram(
            "songcast_request_seconds",
            "From a request to the end of its answer",
            ["path"],
            buckets=SECONDS,
            registry=counts,
        )
        self._heard = Counter("songcast_song_seconds", "Seconds of song heard", registry=counts)
        self._working = Gauge(
            "songcast_requests_working", "Being read, waiting or worked on", registry=counts
        )
        self._version = Gauge("songcast_model_version", "Version served", registry=counts)
        self._reloads = Gauge("songcast_model_reloads", "Changes of model", registry=counts)
        self._memory = Gauge("songcast_resident_bytes", "Memory of the server", registry=counts)
        self._version.set_function(lambda: self._champion.current.version or 0)
        self._reloads.set_function(lambda: self._champion.reloads)
        self._memory.set_function(lambda: psutil.Process().memory_info().rss)

    def exposition(self) -> bytes:
        """Return all counters in Prometheus's text format."""
        return generate_latest(self._registry)

    def heard(self, seconds: float) -> None:
        """Count seconds of song."""
        self._heard.inc(seconds)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count a request as being worked on within the block."""
        with self._working.track_inprogress():
            yield

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Count an answer."""
        known = path if path in PATHS else "other"
        self._requests.labels(known, str(status)).inc()
        self._seconds.labels(known).observe(seconds)


class Counting:
    """Middleware that counts every answer; it touches neither bodies nor streams."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self._app, self._telemetry = app, telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and look at the status of its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sent)
        finally:
            self._telemetry.answered(scope["path"], status, time.perf_counter() - start)

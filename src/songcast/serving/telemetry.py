"""Prometheus metrics of the server."""

import time
from collections.abc import Mapping
from functools import partial

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from songcast.registry.live import Record
from songcast.serving.champion import Champion

# Other paths are counted together: a client must not be able to add labels.
PATHS = (
    *("/invocations", "/forecast", "/continue", "/limits"),
    *("/ping", "/health", "/version", "/metrics", "/", "/docs"),
)
BUCKETS_SECONDS = (0.1, 0.3, 1, 3, 10, 30, 100, 300)
DIFFERENCES = (-1, -0.3, -0.1, -0.03, -0.01, 0, 0.01, 0.03, 0.1, 0.3, 1)
# Measures of an answered song: a field of its record, its description and its buckets.
MEASURES = {
    "bits_per_sample": ("Bits per sample", range(1, 17)),
    "prediction_gain_db": ("Prediction gain in dB, mean of the channels", range(0, 90, 10)),
    "seconds": ("Duration in seconds", BUCKETS_SECONDS),
    "work_seconds": ("Seconds of work", BUCKETS_SECONDS),
}


class Telemetry:
    """The metrics; the public ones are updated where the events are, the others by methods.

    ``registry``: holds all of them, for ``generate_latest``.
    """

    def __init__(self, champion: Champion) -> None:
        registry = self.registry = CollectorRegistry()
        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        histogram = partial(Histogram, registry=registry)
        self._requests = counter("songcast_requests", "Number of responses", ["path", "status"])
        self._seconds = histogram(
            "songcast_request_seconds",
            "Seconds from a request to the end of its response",
            ["path"],
            buckets=BUCKETS_SECONDS,
        )
        self._song_seconds = counter("songcast_song_seconds", "Seconds of audio processed")
        self.records_lost = counter("songcast_records_lost", "Records that were not written")
        self.shadow_songs = counter(
            "songcast_shadow_songs",
            "Songs that the shadow forecast (compared), or that were dropped because others waited",
            ["result"],
        )
        self.shadow_difference_bits = histogram(
            "songcast_shadow_difference_bits",
            "Bits per sample of the shadow minus those of the served version",
            buckets=DIFFERENCES,
        )
        self._measures = {
            field: histogram(
                f"songcast_answered_{field}",
                f"{text} of an answered song",
                ["version"],
                buckets=buckets,
            )
            for field, (text, buckets) in MEASURES.items()
        }
        self.requests_in_progress = gauge(
            "songcast_requests_in_progress", "Requests that are received, queued or processed"
        )
        for name, description, value in (
            ("model_version", "Version served", lambda: champion.current.version or 0),
            (
                "expected_bits_per_sample",
                "Mean of the served version on held-out passages; NaN if unknown",
                lambda: champion.current.expected_bits,
            ),
            ("model_reloads", "Model reloads since the start", lambda: champion.reloads),
            (
                "resident_bytes",
                "Resident memory of the server process",
                lambda: psutil.Process().memory_info().rss,
            ),
        ):
            gauge(f"songcast_{name}", description).set_function(value)

    def song_answered(self, record: Record) -> None:
        """Count an answered song."""
        self._song_seconds.inc(record.seconds)
        version = record.model.rpartition("/")[2]
        for field, histogram in self._measures.items():
            value = getattr(record, field)
            if value is not None:
                histogram.labels(version).observe(value)

    def responded(self, path: str, status: int, seconds: float) -> None:
        """Count a response."""
        label = path if path in PATHS else "other"
        self._requests.labels(label, str(status)).inc()
        self._seconds.labels(label).observe(seconds)


class ResponseMiddleware:
    """Middleware that counts every response and adds ``headers`` to it."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry, headers: Mapping[str, str]) -> None:
        self._app, self._telemetry, self._headers = app, telemetry, headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; record the status and the duration of its response."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def send_and_record(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(self._headers)
            await send(message)

        try:
            await self._app(scope, receive, send_and_record)
        finally:
            self._telemetry.responded(scope["path"], status, time.perf_counter() - start)

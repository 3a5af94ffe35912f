"""Record each answered song in SQLite and in the Prometheus metrics; compare it with a shadow.

A thread writes the records, so that a store that is full, locked or damaged neither delays nor
loses a request; it only loses records, and counts them.
"""

import hashlib
import logging
import math
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from songcast.audio.songs import Song
from songcast.registry.live import Record, add_record, open_records
from songcast.serving.champion import Champion, ServedModel
from songcast.serving.decoder import Decoder
from songcast.serving.idle import IdleWorker, SurprisingSongs
from songcast.serving.jobs import JobQueue
from songcast.serving.tasks import Check, forecast
from songcast.serving.telemetry import Telemetry

log = logging.getLogger("songcast.serve")

# Records that may wait for a locked store; about 1 MB.
MOST_WAITING = 1000
WAIT_SECONDS = 5.0


class Recorder:
    """Writes records into ``path`` in a thread.

    Each record is committed alone, so a killed process loses only those that wait. ``lost`` is
    called with the number of records that were not written.
    """

    def __init__(self, path: Path, lost: Callable[[int], None]) -> None:
        self.path, self._lost = path, lost
        self._queue: queue.Queue[Record | None] = queue.Queue(MOST_WAITING)
        self._stopping = threading.Event()
        self._connection: sqlite3.Connection | None = None
        self._message = ""
        self._thread = threading.Thread(target=self._work, name="records", daemon=True)
        self._thread.start()

    def put(self, record: Record) -> None:
        """Pass a record to the thread; drop it if too many wait."""
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self._lost(1)

    def stop(self) -> None:
        """Write the records that wait, unless the store stays locked; end the thread."""
        self._stopping.set()
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        locked = False
        while (record := self._queue.get()) is not None:
            while not (locked and self._stopping.is_set()):
                locked = not self._write(record)
                if not locked:
                    break
            else:
                self._lost(1)
        if self._connection:
            self._connection.close()

    def _write(self, record: Record) -> bool:
        """Write a record; return False if the store is locked, True if it is written or lost."""
        try:
            self._connection = self._connection or open_records(self.path, WAIT_SECONDS)
            add_record(self._connection, record)
            self._message = ""
        except (sqlite3.Error, OSError) as error:
            if self._connection:
                self._connection.close()
                self._connection = None
            if str(error) != self._message:  # log it once, not for every song
                self._message = str(error)
                log.warning("%s: served songs are not recorded: %s", self.path, error)
            code = getattr(error, "sqlite_errorcode", None)
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                return False
            self._lost(1)
        return True


class Observer:
    """Is notified of each answered song.

    ``records``: the file of the records; None: no records. ``shadow``: a second model that
    forecasts the songs when a worker is idle. ``surprising``: keeps the most surprising ones.
    """

    def __init__(
        self,
        telemetry: Telemetry,
        jobs: JobQueue,
        records: Path | None = None,
        shadow: Champion | None = None,
        surprising: SurprisingSongs | None = None,
    ) -> None:
        self._telemetry = telemetry
        self._recorder = Recorder(records, telemetry.records_lost.inc) if records else None
        self._shadow, self._surprising = shadow, surprising
        self._idle = IdleWorker(jobs) if self._shadow or self._surprising else None

    def answered(
        self,
        served: ServedModel,
        content: bytes,
        song: Song,
        gains_db: list[float] | None,
        bits_per_sample: float | None,
        work_seconds: float,
    ) -> None:
        """Record one song. ``content``: as it was sent. No gains and bits for a continuation."""
        record = Record(
            time=time.time(),
            model=served.pinned_uri,
            shadow=0,
            song=hashlib.blake2b(content, digest_size=8).hexdigest(),
            seconds=song.seconds,
            sample_rate_hz=song.sample_rate_hz,
            channels=song.channels,
            bits_per_sample=bits_per_sample,
            prediction_gain_db=float(np.mean(gains_db)) if gains_db else None,
            work_seconds=work_seconds,
        )
        self._telemetry.song_answered(record)
        self._put(record)
        if self._idle and record.bits_per_sample is not None:
            expected = 0.0 if math.isnan(served.expected_bits) else served.expected_bits
            self._offer(record, content, record.bits_per_sample - expected)

    def _offer(self, record: Record, content: bytes, excess_bits: float) -> None:
        """Leave the song to the idle worker if it is surprising or the shadow can forecast it."""
        kept, shadow = self._surprising, self._shadow.current if self._shadow else None
        if kept and not kept.wanted(record.song, excess_bits):
            kept = None
        if shadow and shadow.pinned_uri == record.model:
            shadow = None

        def task(decoder: Decoder, check: Check) -> None:
            song = decoder.decode(content, f"song {record.song}")
            if kept:
                kept.keep(song, record.song, excess_bits)
            if shadow:
                self._compare(shadow, song, record, check)

        if (kept or shadow) and self._idle and not self._idle.offer(task):
            self._telemetry.shadow_songs.labels("dropped").inc()

    def _compare(self, shadow: ServedModel, song: Song, record: Record, check: Check) -> None:
        """Forecast the song of ``record`` with the shadow and record the result."""
        start = time.perf_counter()
        _, gains, bits = forecast(shadow.model, song, check)
        self._put(
            replace(
                record,
                time=time.time(),
                model=shadow.pinned_uri,
                shadow=1,
                bits_per_sample=bits,
                prediction_gain_db=float(np.mean(gains)),
                work_seconds=time.perf_counter() - start,
            )
        )
        self._telemetry.shadow_songs.labels("compared").inc()
        self._telemetry.shadow_difference_bits.observe(bits - (record.bits_per_sample or 0.0))

    def _put(self, record: Record) -> None:
        if self._recorder:
            self._recorder.put(record)

    def stop(self) -> None:
        """Write what waits and end the threads, after ``JobQueue.stop``."""
        if self._idle:
            self._idle.stop()
        if self._recorder:
            self._recorder.stop()

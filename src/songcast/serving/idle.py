"""Work on answered songs while a worker is idle: shadow forecasts and the most surprising songs."""

import logging
import os
import queue
import re
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from songcast.audio.songs import Song, write_song
from songcast.files import sweep
from songcast.serving.decoder import Decoder
from songcast.serving.jobs import JobQueue
from songcast.serving.tasks import Check

log = logging.getLogger("songcast.serve")

Task = Callable[[Decoder, Check], None]

# Songs that may wait, as they were sent; later ones are dropped.
MOST_WAITING = 4
POLL_SECONDS = 0.02
LOWEST_PRIORITY = 19
KEPT = re.compile(r"song-([0-9a-f]{16})([+-]\d+\.\d{3})\.flac")


class StoppedError(Exception):
    """The server is stopping."""


class IdleWorker:
    """Runs tasks one after the other in a thread while a worker of ``jobs`` is idle.

    A task pauses at its next check when all workers are busy, so it delays no answer. On Linux the
    thread also has the lowest priority.
    """

    def __init__(self, jobs: JobQueue) -> None:
        self._jobs = jobs
        self._tasks: queue.Queue[Task] = queue.Queue(MOST_WAITING)
        self._thread = threading.Thread(target=self._work, name="idle", daemon=True)
        self._thread.start()

    def offer(self, task: Task) -> bool:
        """Run ``task`` later; return False and drop it if too many wait."""
        with suppress(queue.Full):
            self._tasks.put_nowait(task)
            return True
        return False

    def stop(self) -> None:
        """Wait for the end of the thread, after ``JobQueue.stop``."""
        self._thread.join()

    def _check(self) -> None:
        while not self._jobs.idle:
            if self._jobs.stopping.is_set():
                raise StoppedError
            time.sleep(POLL_SECONDS)

    def _work(self) -> None:
        if sys.platform == "linux":  # elsewhere it would change the whole process
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST_PRIORITY)
        while not self._jobs.stopping.is_set():
            try:
                task = self._tasks.get(timeout=10 * POLL_SECONDS)
                self._check()
                task(self._jobs.decoder(), self._check)
            except queue.Empty:
                continue
            except StoppedError:
                return
            except Exception as error:  # the song was answered; this must not end the thread
                if not self._jobs.stopping.is_set():
                    log.warning("work on an answered song failed: %r", error)


class SurprisingSongs:
    """Keeps the ``number`` songs with the most bits above expectation in ``folder``, as flac.

    A file is named after the digest of the song and its bits per sample above expectation.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self._folder, self._number = folder, number
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        sweep(folder)

    def wanted(self, song: str, excess_bits: float) -> bool:
        """Return whether a song with this digest is among the most surprising ones."""
        kept = self._kept()
        return song not in (digest for _, digest, _ in kept) and (
            len(kept) < self._number or excess_bits > kept[0][0]
        )

    def keep(self, song: Song, digest: str, excess_bits: float) -> None:
        """Write the song and delete the least surprising ones beyond the number."""
        if not self.wanted(digest, excess_bits):
            return
        write_song(song, self._folder / f"song-{digest}{excess_bits:+.3f}.flac")
        for _, _, path in self._kept()[: -self._number]:
            path.unlink(missing_ok=True)

    def _kept(self) -> list[tuple[float, str, Path]]:
        """Return excess, digest and file of each song, the least surprising first."""
        with suppress(OSError):  # a request must not fail because the folder is missing
            found = [(KEPT.fullmatch(path.name), path) for path in self._folder.iterdir()]
            return sorted((float(m[2]), m[1], path) for m, path in found if m)
        return []

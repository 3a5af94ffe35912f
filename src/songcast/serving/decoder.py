"""Decode songs from clients in a separate process.

Decoders are C code that may crash, hang or use too much memory on hostile input. The process has
a memory limit, is killed after a timeout, and is replaced by a new one.

Over a socket, each request is the maximal number of frames (JSON) and the content from the
client; each reply is a description (JSON) and the samples as little-endian int16.
"""

import contextlib
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import warnings
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from songcast.audio.songs import Song, SongWarning
from songcast.errors import AudioError
from songcast.serving.payload import TooLongError, decode_bytes

log = logging.getLogger("songcast.serve")


class Decoder:
    """A decoder process; each thread needs its own.

    ``max_frames``: of a song. ``seconds``: timeout for a song. ``memory_bytes``: address space.
    """

    def __init__(self, max_frames: int, seconds: float, memory_bytes: int) -> None:
        self.seconds = seconds
        self._max_frames, self._memory_bytes = max_frames, memory_bytes
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    def decode(self, content: bytes, name: str) -> Song:
        """Return the song in ``content``, a result of ``sent_bytes``. Raises ``AudioError``."""
        try:
            description, pcm = self._reply(json.dumps(self._max_frames).encode(), content)
        except (OSError, EOFError):
            self.close()
            raise AudioError(
                f"{name}: cannot be decoded within {self.seconds:g} s and "
                f"{self._memory_bytes // 2**20} MB: send another file"
            ) from None
        reply = json.loads(description)
        if "error" in reply:
            kind = TooLongError if reply["too_long"] else AudioError
            raise kind(reply["error"].replace("song.file", name, 1))
        for line in reply["warnings"]:
            log.warning("%s", line.replace("song.file", name, 1))
        samples = np.frombuffer(pcm, "<i2").reshape(-1, reply["channels"])
        return Song(samples=samples, sample_rate_hz=reply["sample_rate_hz"], name=name)

    def close(self) -> None:
        """Kill the process."""
        if self._process is None or self._connection is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._connection.close()
        self._process.wait()
        self._process = self._connection = None

    def _reply(self, *request: bytes) -> list[bytes]:
        """Send a request and return the reply; start the process first if necessary.

        Raises ``OSError`` or ``EOFError`` if the process ends, which it does after the timeout.
        """
        if self._process is None or self._connection is None or self._process.poll() is not None:
            self.close()
            self._connection, other_end = Pipe()
            with other_end:
                descriptor = other_end.fileno()
                self._process = subprocess.Popen(
                    [sys.executable, "-m", __name__, str(descriptor), str(self._memory_bytes)],
                    pass_fds=[descriptor],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
        timer = threading.Timer(self.seconds, os.killpg, (self._process.pid, signal.SIGKILL))
        timer.daemon = True
        timer.start()
        try:
            for part in request:
                self._connection.send_bytes(part)
            return [self._connection.recv_bytes(), self._connection.recv_bytes()]
        finally:
            timer.cancel()


def main() -> None:
    """Reply to requests until the other end of the socket is closed."""
    descriptor, memory_bytes = map(int, sys.argv[1:])
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(descriptor)
    with contextlib.suppress(EOFError, OSError):
        while True:
            reply_to(connection)


def reply_to(connection: Connection) -> None:
    """Reply to one request. Raises ``EOFError`` or ``OSError`` at the end of the connection."""
    max_frames, content = json.loads(connection.recv_bytes()), connection.recv_bytes()
    reply: dict[str, Any]
    samples = np.empty(0, "<i2")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", SongWarning)
            song = decode_bytes(content, "song.file", max_frames)
        reply = {"channels": song.channels, "sample_rate_hz": song.sample_rate_hz}
        reply["warnings"] = [str(warning.message) for warning in caught]
        samples = np.asarray(song.samples, "<i2")
    except AudioError as error:
        reply = {"error": str(error), "too_long": isinstance(error, TooLongError)}
    connection.send_bytes(json.dumps(reply).encode())
    connection.send_bytes(samples.reshape(-1).view(np.uint8).data)


if __name__ == "__main__":
    main()

"""Decoding what strangers send, in a process of its own.

Decoders are C code that reads hostile bytes. Here they may crash, hang or swell without harm: the
process has a memory limit, is killed when it is late, and a new one takes its place.

One request and one reply at a time, over pipes; each part is its length in 8 bytes, then itself.
Request: the greatest number of frames (JSON), what was sent. Reply: a description (JSON), the
samples as little-endian int16.
"""

import contextlib
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from songcast.audio.songs import Song
from songcast.errors import AudioError
from songcast.serving.limits import Limits
from songcast.serving.payload import TooLongError, decode_bytes

LENGTH = struct.Struct("<Q")


class Decoder:
    """A decoding process; not to be shared between threads."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None

    def decode(self, content: bytes, name: str) -> Song:
        """Return the song in what ``sent_bytes`` gives. Raises ``AudioError``, ``TooLongError``."""
        try:
            with self._watched() as process:
                send(process.stdin, json.dumps(self._limits.max_frames).encode(), content)
                said, pcm = receive(process.stdout), receive(process.stdout)
        except (OSError, EOFError):
            self.close()
            raise AudioError(
                f"{name}: cannot be decoded within {self._limits.decoding_seconds:g} s and "
                f"{self._limits.decoding_bytes // 2**20} MB: send another file"
            ) from None
        reply = json.loads(said)
        if "error" in reply:
            kind = TooLongError if reply["too_long"] else AudioError
            raise kind(reply["error"].replace("song.file", name, 1))
        samples = np.frombuffer(pcm, "<i2").reshape(-1, reply["channels"]).astype(np.int16)
        return Song(samples=samples, sample_rate_hz=reply["sample_rate_hz"], name=name)

    def close(self) -> None:
        """End the process, and the decoder that it may have started."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        for pipe in (process.stdin, process.stdout):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()
        process.wait()

    @contextlib.contextmanager
    def _watched(self) -> Iterator["subprocess.Popen[bytes]"]:
        """Give the process; it is killed when the block takes too long."""
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "songcast.serving.decoder",
                    str(self._limits.decoding_bytes),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        process = self._process
        late = threading.Timer(self._limits.decoding_seconds, os.killpg, (process.pid, 9))
        late.daemon = True
        late.start()
        try:
            yield process
        finally:
            late.cancel()


def send(pipe: IO[bytes] | None, *parts: bytes) -> None:
    """Write parts, each after its length."""
    if pipe is None:
        raise EOFError
    for part in parts:
        pipe.write(LENGTH.pack(len(part)))
        pipe.write(part)
    pipe.flush()


def receive(pipe: IO[bytes] | None) -> bytes:
    """Read one part. Raises ``EOFError`` where the other side is gone."""
    head = pipe.read(LENGTH.size) if pipe else b""
    if pipe is None or len(head) < LENGTH.size:
        raise EOFError
    (length,) = LENGTH.unpack(head)
    content = pipe.read(length)
    if len(content) < length:
        raise EOFError
    return content


def main() -> None:
    """Serve requests from stdin until it ends."""
    most = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests, replies = sys.stdin.buffer, sys.stdout.buffer
    while True:
        try:
            max_frames, content = json.loads(receive(requests)), receive(requests)
        except EOFError:
            return
        reply: dict[str, Any]
        try:
            song = decode_bytes(content, "song.file", max_frames)
            reply = {"channels": song.channels, "sample_rate_hz": song.sample_rate_hz}
            pcm = song.samples.astype("<i2").tobytes()
        except AudioError as error:
            reply, pcm = {"error": str(error), "too_long": isinstance(error, TooLongError)}, b""
        send(replies, json.dumps(reply).encode(), pcm)


if __name__ == "__main__":
    main()

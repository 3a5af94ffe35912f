"""A wav that is sent while it is made."""

import asyncio
import logging
import struct
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import ExitStack

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from songcast.serving.limits import RefusedError
from songcast.serving.work import Job

log = logging.getLogger("songcast.serve")

WAV_HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")


class WavStream(StreamingResponse):
    """Sends what was made already, then the rest as it comes; frees the place in any case.

    The length is known, so a client sees that a stream which had to be cut is not whole. It is
    cut for a client too that has not taken it by the deadline of its ``job``: whoever reads
    nothing would keep a worker.
    """

    def __init__(
        self, made: bytes, parts: AsyncGenerator[bytes], job: Job, held: ExitStack
    ) -> None:
        self._parts, self._job, self._held = parts, job, held

        async def all_parts() -> AsyncIterator[bytes]:
            yield made
            async for part in parts:
                yield part

        (samples,) = struct.unpack_from("<I", made, WAV_HEADER.size - 4)
        length = {"Content-Length": str(WAV_HEADER.size + samples)}
        super().__init__(all_parts(), media_type="audio/wav", headers=length)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the wav."""
        try:
            async with asyncio.timeout(max(self._job.left, 0.0)):
                await super().__call__(scope, receive, send)
        except RefusedError as error:  # too late for another status
            log.warning("a continuation was cut: %s", error)
        except TimeoutError:
            log.warning("a continuation was cut: not taken within %g s", self._job.seconds)
        finally:
            self._held.close()
            await self._parts.aclose()


def wav_header(frames: int, channels: int, sample_rate_hz: int) -> bytes:
    """Return the 44 bytes before the int16 samples of a wav file of known length."""
    size = 2 * frames * channels
    rate, block = sample_rate_hz, 2 * channels
    return WAV_HEADER.pack(
        *(b"RIFF", 36 + size, b"WAVE"),
        *(b"fmt ", 16, 1, channels, rate, rate * block, block, 16),
        *(b"data", size),
    )

"""A wav that is sent while it is made."""

import logging
import struct
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import ExitStack

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from songcast.serving.limits import RefusedError

log = logging.getLogger("songcast.serve")

WAV_HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")


class WavStream(StreamingResponse):
    """Sends what was made already, then the rest as it comes; frees the place in any case.

    The length is known, so a client sees that a stream which had to be cut is not whole.
    """

    def __init__(self, made: bytes, parts: AsyncGenerator[bytes], held: ExitStack) -> None:
        self._parts, self._held = parts, held

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
            await super().__call__(scope, receive, send)
        except RefusedError as error:  # too late for another status
            log.warning("a continuation was cut: %s", error)
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

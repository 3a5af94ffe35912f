"""A wav response that is sent while its samples are computed."""

import asyncio
import io
import logging
import wave
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import ExitStack

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from songcast.serving.jobs import CANCELLED, Job, RequestError

log = logging.getLogger("songcast.serve")

HEADER_BYTES = 44


class WavStream(StreamingResponse):
    """Sends ``start``, which begins with a wav header, then ``blocks``; then closes ``resources``.

    Content-Length is set, so clients notice an incomplete stream. A stream ends early when
    ``job`` fails or when the client has not read all of it by the deadline of ``job``; a client
    that stops reading would otherwise occupy a worker.
    """

    def __init__(
        self, start: bytes, blocks: AsyncGenerator[bytes], job: Job, resources: ExitStack
    ) -> None:
        self._blocks, self._job, self._resources = blocks, job, resources

        async def content() -> AsyncIterator[bytes]:
            yield start
            async for block in blocks:
                yield block

        data_bytes = int.from_bytes(start[HEADER_BYTES - 4 : HEADER_BYTES], "little")
        headers = {"Content-Length": str(HEADER_BYTES + data_bytes)}
        super().__init__(content(), media_type="audio/wav", headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        try:
            async with asyncio.timeout(max(self._job.seconds_left, 0.0)):
                await super().__call__(scope, receive, send)
        except RequestError as error:  # the status is sent already
            self._abort(str(error))
        except TimeoutError:
            self._abort(f"not sent within {self._job.seconds:g} s")
        finally:
            if self._job.progress.state != "finished":
                self._job.fail(CANCELLED)
            self._resources.close()
            await self._blocks.aclose()

    def _abort(self, reason: str) -> None:
        self._job.fail(reason)
        log.warning("stream aborted: %s", reason)


def wav_header(frames: int, channels: int, sample_rate_hz: int) -> bytes:
    """Return the 44 bytes before the int16 samples of a wav file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((channels, 2, sample_rate_hz, frames, "NONE", ""))
        writer.writeframesraw(b"")
        return file.getvalue()

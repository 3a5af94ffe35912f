"""What a client may ask of the server, and the errors that tell it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds on one request, and on all of them together.

    ``body_bytes``: a song of ``max_frames`` in stereo as wav, in base64. ``max_frames``: 300 s at
    48 kHz; cost goes by frames, whatever the rate. ``places``: requests being read, waiting or
    worked on. ``workers``: worked on at once. ``decoding_bytes``: address space of a decoder.
    """

    body_bytes: int = 80 * 2**20
    max_frames: int = 300 * 48_000
    songs: int = 16
    continuation_seconds: float = 300.0
    places: int = 16
    workers: int = 2
    request_seconds: float = 300.0
    decoding_seconds: float = 60.0
    decoding_bytes: int = 4 * 2**30


class RefusedError(Exception):
    """A request that is not answered. ``status``: of HTTP; the message is one line."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

"""Songs in requests and responses: base64 of an audio file, or raw int16 samples as JSON."""

import base64
import binascii
import json
import math
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from songcast.audio.formats import MAX_CHANNELS
from songcast.audio.reading import open_song
from songcast.audio.songs import Song, SongWarning
from songcast.errors import AudioError
from songcast.report.console import duration

ADVICE = "send the base64 text of an audio file"
INT16 = np.iinfo(np.int16)


class TooLongError(AudioError):
    """A song has more frames than allowed."""


def decode_song(text: Any, name: str) -> Song:
    """Return the song in ``text``: base64 of an audio file, or raw samples as JSON.

    Raw samples: ``{"samples": [[left, right], ...], "sample_rate_hz": 44100}``; mono may be a flat
    list. Raises ``AudioError``, one line that starts with ``name``.
    """
    return decode_bytes(sent_bytes(text, name), name)


def sent_bytes(text: Any, name: str) -> bytes:
    """Return the decoded base64 of ``text``, or JSON text as bytes. Raises ``AudioError``."""
    if isinstance(text, str) and text.lstrip()[:1] == "{":
        return text.lstrip().encode(errors="replace")
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise AudioError(f"{name}: not base64: {ADVICE}") from None
    if not content:
        raise AudioError(f"{name}: empty: {ADVICE}")
    return content


def decode_bytes(content: bytes, name: str, max_frames: float = math.inf) -> Song:
    """Return the song in the result of ``sent_bytes``. Raises ``AudioError``."""
    decode = raw_song if content[:1] == b"{" else decode_file
    return decode(content, name, max_frames)


def raw_song(text: str | bytes, name: str, max_frames: float = math.inf) -> Song:
    """Return the song in JSON with raw samples. Raises ``AudioError``."""
    try:
        document = json.loads(text)
        rate, samples = document["sample_rate_hz"], np.asarray(document["samples"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise AudioError(
            f"{name}: invalid raw samples: send "
            '{"samples": [[left, right], ...], "sample_rate_hz": 44100}'
        ) from None
    if not (isinstance(rate, int) and 1 <= rate <= 1_000_000):
        raise AudioError(f"{name}: sample_rate_hz must be an integer from 1 to 1 000 000")
    if samples.ndim == 1:
        samples = samples[:, None]
    valid_shape = samples.ndim == 2 and len(samples) and 1 <= samples.shape[1] <= MAX_CHANNELS
    if not valid_shape or samples.dtype.kind not in "iu":
        raise AudioError(
            f"{name}: samples must be integers, one or two per frame, at least one frame"
        )
    if samples.min() < INT16.min or samples.max() > INT16.max:
        raise AudioError(f"{name}: samples must be between {INT16.min} and {INT16.max}")
    check_length(len(samples), rate, name, max_frames)
    return Song(samples=samples.astype(np.int16), sample_rate_hz=rate, name=name)


def decode_file(content: bytes, name: str, max_frames: float = math.inf) -> Song:
    """Return the song in the bytes of an audio file; stop reading after ``max_frames``.

    Gives a ``SongWarning`` for a damaged file. Raises ``AudioError`` (see
    ``songcast.read_song``), ``TooLongError``.
    """
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "song.bin"
        path.write_bytes(content)
        blocks, frames = [], 0
        try:
            with open_song(path) as reader:
                rate = reader.sample_rate_hz
                for block in reader.blocks():
                    frames += len(block)
                    check_length(frames, rate, name, max_frames)
                    blocks.append(block)
        except AudioError as error:
            # The scratch file means nothing to the client.
            message = str(error).replace(str(path), name).replace(path.name, name)
            raise type(error)(message) from None
    if reader.damage:
        warnings.warn(f"{name}: {reader.damage}", SongWarning, stacklevel=2)
    return Song(samples=np.concatenate(blocks), sample_rate_hz=rate, name=name)


def check_length(frames: int, sample_rate_hz: int, name: str, max_frames: float) -> None:
    """Raise ``TooLongError`` if there are more than ``max_frames``."""
    if frames > max_frames:
        limit = f"{duration(max_frames / sample_rate_hz)} at {sample_rate_hz / 1000:g} kHz"
        raise TooLongError(f"{name}: longer than {limit}: send a shorter song")

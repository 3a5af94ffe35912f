"""Songs as clients send and receive them: base64 of a file, or raw int16 numbers with a rate."""

import base64
import binascii
import json
import math
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from songcast.audio.codecs import MAX_CHANNELS
from songcast.audio.songs import Song, SongWarning, open_song, write_song
from songcast.errors import AudioError

SEND = "send the base64 text of an audio file"
LOWEST, HIGHEST = -32768, 32767


class TooLongError(AudioError):
    """A song has more frames than are accepted."""


def decode_song(text: Any, name: str, max_frames: float = math.inf) -> Song:
    """Return the song in ``text``: base64 of an audio file, or raw samples as JSON.

    Raw: ``{"samples": [[left, right], ...], "sample_rate_hz": 44100}``, for mono also a flat list.
    Raises ``AudioError``, one line that starts with ``name``.
    """
    return decode_bytes(sent_bytes(text, name), name, max_frames)


def sent_bytes(text: Any, name: str) -> bytes:
    """Return the file in base64 ``text``, or raw samples as they are. Raises ``AudioError``."""
    if isinstance(text, str) and text.lstrip()[:1] == "{":
        return text.lstrip().encode(errors="replace")
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise AudioError(f"{name}: not base64: {SEND}") from None
    if not content:
        raise AudioError(f"{name}: empty: {SEND}")
    return content


def decode_bytes(content: bytes, name: str, max_frames: float = math.inf) -> Song:
    """Return the song in what ``sent_bytes`` gives. Raises ``AudioError``."""
    decode = raw_song if content[:1] == b"{" else decode_file
    return decode(content, name, max_frames)


def raw_song(text: str | bytes, name: str, max_frames: float = math.inf) -> Song:
    """Return the song of raw samples as JSON. Raises ``AudioError``."""
    try:
        said = json.loads(text)
        rate, samples = said["sample_rate_hz"], np.asarray(said["samples"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise AudioError(
            f'{name}: raw samples are {{"samples": [[left, right], ...], "sample_rate_hz": 44100}}'
        ) from None
    if not (isinstance(rate, int) and 1 <= rate <= 1_000_000):
        raise AudioError(f"{name}: sample_rate_hz must be a whole number from 1 to 1 000 000")
    if samples.ndim == 1:
        samples = samples[:, None]
    shape_is_sound = samples.ndim == 2 and len(samples) and 1 <= samples.shape[1] <= MAX_CHANNELS
    if not shape_is_sound or samples.dtype.kind not in "iu":
        raise AudioError(
            f"{name}: samples must be whole numbers, one or two for each frame, at least one frame"
        )
    if samples.min() < LOWEST or samples.max() > HIGHEST:
        raise AudioError(f"{name}: samples must lie between {LOWEST} and {HIGHEST}")
    check_length(len(samples), name, max_frames)
    return Song(samples=samples.astype(np.int16), sample_rate_hz=rate, name=name)


def decode_file(content: bytes, name: str, max_frames: float = math.inf) -> Song:
    """Return the song in the bytes of an audio file; reading stops beyond ``max_frames``.

    Raises ``AudioError`` (see ``songcast.read_song``), ``TooLongError``.
    """
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore", SongWarning)
        path = Path(scratch) / f"song{suffix_of(content)}"
        path.write_bytes(content)
        blocks, frames = [], 0
        try:
            with open_song(path) as reader:
                for block in reader.blocks():
                    frames += len(block)
                    check_length(frames, name, max_frames)
                    blocks.append(block)
                rate = reader.sample_rate_hz
        except AudioError as error:
            # The client knows its song, not our scratch file.
            message = str(error).replace(str(path), name).replace(path.name, name)
            raise type(error)(message) from None
    return Song(samples=np.concatenate(blocks), sample_rate_hz=rate, name=name)


def check_length(frames: int, name: str, max_frames: float) -> None:
    """Raise ``TooLongError`` where there are more than ``max_frames``."""
    if frames > max_frames:
        raise TooLongError(f"{name}: more than {max_frames:.0f} frames: send a shorter passage")


def encode_song(song: Song, audio_format: str) -> str:
    """Return base64 of ``song`` as a file in ``audio_format``: wav, flac or mp3."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / f"song.{audio_format}"
        write_song(song, path)
        return base64.b64encode(path.read_bytes()).decode()


def suffix_of(content: bytes) -> str:
    """Return the file suffix that the first bytes speak for, ``.bin`` for none.

    >>> suffix_of(b"fLaC....")
    '.flac'
    """
    if content[:4] in (b"RIFF", b"RF64"):
        return ".wav"
    if content[:4] == b"fLaC":
        return ".flac"
    if content[:4] == b"OggS":
        return ".ogg"
    if content[4:8] == b"ftyp":
        return ".m4a"
    # MPEG audio: an ID3 tag, or a frame that starts with eleven set bits. AAC in ADTS frames
    # starts likewise, but its layer bits are zero, which MPEG audio reserves.
    frame = len(content) > 1 and content[0] == 0xFF and content[1] & 0xE0 == 0xE0
    if frame and content[1] & 0xF6 == 0xF0:
        return ".aac"
    return ".mp3" if content[:3] == b"ID3" or frame else ".bin"

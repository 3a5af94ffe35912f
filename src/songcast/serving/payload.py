"""Songs as clients send and receive them: base64 of a file in any supported format."""

import base64
import binascii
import tempfile
from pathlib import Path
from typing import Any

from songcast.audio import Song, read_song, write_song
from songcast.errors import AudioError


def decode_song(text: Any, name: str) -> Song:
    """Return the song in ``text``. Raises ``AudioError``, one line that starts with ``name``."""
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise AudioError(f"{name}: not base64: send the base64 text of an audio file") from None
    if not content:
        raise AudioError(f"{name}: empty: send the base64 text of an audio file")
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / f"song{suffix_of(content)}"
        path.write_bytes(content)
        try:
            song = read_song(path)
        except AudioError as error:
            # The client knows its song, not our scratch file.
            message = str(error).replace(str(path), name).replace(path.name, name)
            raise AudioError(message) from None
    return Song(samples=song.samples, sample_rate_hz=song.sample_rate_hz, name=name)


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

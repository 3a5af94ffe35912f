"""What the first and last bytes of a song's file say: its format, and how long it claims to be.

Decoders are lenient: libsndfile plays half a wav as if it were whole, and takes text for mp3.
Here the file's own promises are read, so that a damaged song is an error and never a shorter
song. The suffix is not trusted: a flac named ``song.wav`` is read as flac.
"""

import struct
from dataclasses import dataclass
from os import SEEK_END
from pathlib import Path
from typing import BinaryIO, Literal

from songcast.errors import AudioError

Kind = Literal["wav", "flac", "ogg", "mp3", "mp4", "aac"]

TRUNCATED = "the file ends too early: it is truncated"
COPY_AGAIN = "copy or download it again"
KNOWN = "songcast reads wav, flac, mp3, ogg, opus, m4a and aac"

# Sizes that recorders write into a wav whose length they do not know yet (ffmpeg, sox).
_UNKNOWN_SIZES = (range(0x7FFFF000, 0x80000000), range(0xFFFFF000, 0x100000000))
_MAX_OGG_PAGE = 65307
_MAX_MP3_JUNK = 65536
_ID3V1_BYTES = 128
_MPEG1_RATES_HZ = (44100, 48000, 32000)
_MP3_KBPS = {
    (1, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


@dataclass(frozen=True, kw_only=True)
class Container:
    """The format of a file, and how many frames it promises (None: it does not say)."""

    kind: Kind
    frames: int | None = None


def audio_error(path: Path, wrong: str, todo: str) -> AudioError:
    """One line: where, what is wrong, what to do."""
    return AudioError(f"{shown(path)}: {wrong}; {todo}")


def undecodable(path: Path, why: str) -> AudioError:
    """What a decoder said against the file at ``path``."""
    why = why.strip().removeprefix("Error : ").rstrip(".")
    return audio_error(path, f"is damaged, it cannot be decoded ({why})", COPY_AGAIN)


def shown(path: Path) -> str:
    """Return the path on one printable line: a newline in a name is shown as ``\\n``."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(path))


def inspect(path: Path) -> Container:
    """Tell the format of the file at ``path``.

    Raises ``AudioError``: missing, a folder, unreadable, empty, not audio, or visibly
    truncated (wav and mp3 shorter than they declare, ogg without its last page).
    """
    try:
        check_regular(path)
        with path.open("rb") as file:
            return _inspect(path, file)
    except OSError as error:
        raise audio_error(
            path, f"cannot be read ({error.strerror})", "check the name and its permissions"
        ) from error


def check_regular(path: Path) -> None:
    """Raise ``AudioError`` for what is no file: reading a pipe or a device might never end."""
    if path.is_dir():
        raise audio_error(path, "is a folder", "name one song in it")
    if not path.exists():
        raise audio_error(path, "there is no such file", "check the name")
    if not path.is_file():
        raise audio_error(path, "is not a regular file", "save the song to a file first")


def _inspect(path: Path, file: BinaryIO) -> Container:
    size = file.seek(0, SEEK_END)
    if size == 0:
        raise audio_error(path, "the file is empty (0 bytes)", COPY_AGAIN)
    start = _after_id3(file)
    file.seek(start)
    head = file.read(64)
    if head[:4] == b"fLaC":
        return Container(kind="flac", frames=_flac_frames(head))
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        _check_wav(path, file, size)
        return Container(kind="wav")
    if head[:4] == b"OggS":
        _check_ogg(path, file, size)
        return Container(kind="ogg")
    if head[4:8] == b"ftyp":
        _check_mp4(path, file, size)
        return Container(kind="mp4")
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return Container(kind="aac")
    first = _first_mp3_frame(file, start)
    if first is not None:
        return Container(kind="mp3", frames=_mp3_frames(path, file, first, size))
    is_text = head.isascii() and b"\0" not in head
    raise audio_error(path, "is text, not a song" if is_text else "is not a known format", KNOWN)


def _after_id3(file: BinaryIO) -> int:
    """Offset of the first byte after any ID3v2 tags."""
    offset = 0
    while True:
        file.seek(offset)
        head = file.read(10)
        if len(head) < 10 or head[:3] != b"ID3":
            return offset
        size = 0
        for byte in head[6:10]:
            size = size << 7 | byte & 0x7F
        offset += 10 + size + (10 if head[5] & 0x10 else 0)


def _flac_frames(head: bytes) -> int | None:
    """STREAMINFO's 36-bit count; 0 there means that the encoder did not know (a pipe)."""
    return int.from_bytes(head[21:26], "big") & (1 << 36) - 1 or None


def _check_wav(path: Path, file: BinaryIO, size: int) -> None:
    """Walk the RIFF chunks to ``data``; its declared bytes must be there."""
    offset, long_size = 12, 0
    while True:
        file.seek(offset)
        head = file.read(8)
        if len(head) < 8:
            raise audio_error(path, f"{TRUNCATED} before any sample", COPY_AGAIN)
        name, length = struct.unpack("<4sI", head)
        if name == b"ds64":  # RF64: the true size of data, for files beyond 4 GB
            long_size = int.from_bytes(file.read(16)[8:], "little")
        if name == b"data":
            break
        offset += 8 + length + length % 2
    if length == 0xFFFFFFFF and long_size:
        length = long_size
    elif any(length in unknown for unknown in _UNKNOWN_SIZES):
        return
    there = size - offset - 8
    if length > there:
        raise audio_error(path, f"{TRUNCATED}, {there} of {length} bytes of samples", COPY_AGAIN)


def _check_ogg(path: Path, file: BinaryIO, size: int) -> None:
    """The last Ogg page must be whole and carry the end-of-stream flag."""
    file.seek(max(0, size - 2 * _MAX_OGG_PAGE))
    tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    segments = page[27 : 27 + page[26]] if len(page) > 26 else b""
    whole = len(page) > 26 and len(page) >= 27 + page[26] + sum(segments)
    if not (whole and page[5] & 4):
        raise audio_error(path, f"{TRUNCATED} (no last Ogg page)", COPY_AGAIN)


def _check_mp4(path: Path, file: BinaryIO, size: int) -> None:
    """Every top-level box must lie within the file; the index may be the last of them."""
    offset = 0
    while offset < size:
        file.seek(offset)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:  # a 64-bit length follows the name
            length = int.from_bytes(head[8:16], "big")
        if length == 0:  # the box goes on to the end of the file
            return
        if length < 8 or offset + length > size:
            raise audio_error(path, f"{TRUNCATED} (no end of the last box)", COPY_AGAIN)
        offset += length


@dataclass(frozen=True, kw_only=True)
class _Mp3Header:
    offset: int
    version: int  # 1, or 2 for MPEG 2 and 2.5
    mono: bool
    rate_hz: int
    frame_bytes: int
    frame_samples: int


def _mp3_header(data: bytes, at: int, offset: int) -> _Mp3Header | None:
    """Parse the MPEG audio frame header at ``data[at:]`` (``offset`` in the file)."""
    if at + 4 > len(data) or data[at] != 0xFF or data[at + 1] & 0xE0 != 0xE0:
        return None
    version_bits, layer_bits = data[at + 1] >> 3 & 3, data[at + 1] >> 1 & 3
    kbps_index, rate_index = data[at + 2] >> 4, data[at + 2] >> 2 & 3
    if version_bits == 1 or layer_bits == 0 or kbps_index in (0, 15) or rate_index == 3:
        return None
    version, layer = (1 if version_bits == 3 else 2), 4 - layer_bits
    rate_hz = _MPEG1_RATES_HZ[rate_index] // {3: 1, 2: 2, 0: 4}[version_bits]
    samples = 384 if layer == 1 else 576 if (version, layer) == (2, 3) else 1152
    slot = 4 if layer == 1 else 1
    padding = data[at + 2] >> 1 & 1
    bits_per_second = 1000 * _MP3_KBPS[version, layer][kbps_index]
    return _Mp3Header(
        offset=offset,
        version=version,
        mono=data[at + 3] >> 6 == 3,
        rate_hz=rate_hz,
        frame_bytes=(samples * bits_per_second // (8 * slot * rate_hz) + padding) * slot,
        frame_samples=samples,
    )


def _first_mp3_frame(file: BinaryIO, start: int) -> _Mp3Header | None:
    """Find the first frame that another like it follows (or that fills the whole file)."""
    file.seek(start)
    data = file.read(_MAX_MP3_JUNK + 4096)
    at = data.find(0xFF)
    while 0 <= at < _MAX_MP3_JUNK:
        header = _mp3_header(data, at, start + at)
        if header is not None:
            follower = _mp3_header(data, at + header.frame_bytes, 0)
            alone = at == 0 and len(data) <= header.frame_bytes + _ID3V1_BYTES
            alike = follower is not None and (follower.version, follower.rate_hz) == (
                header.version,
                header.rate_hz,
            )
            if alone or alike:
                return header
        at = data.find(0xFF, at + 1)
    return None


def _mp3_frames(path: Path, file: BinaryIO, first: _Mp3Header, size: int) -> int | None:
    """Frames promised by the Xing or Info header of the first MPEG frame, if it has one."""
    side_info = (17 if first.mono else 32) if first.version == 1 else (9 if first.mono else 17)
    file.seek(first.offset + 4 + side_info)
    tag = file.read(160).ljust(160, b"\0")
    if tag[:4] not in (b"Xing", b"Info"):
        return None
    flags, at = tag[7], 8
    mpeg_frames = None
    if flags & 1:
        mpeg_frames, at = int.from_bytes(tag[at : at + 4], "big"), at + 4
    if flags & 2:
        promised, at = int.from_bytes(tag[at : at + 4], "big"), at + 4
        there = size - first.offset
        if promised > there:
            raise audio_error(path, f"{TRUNCATED}, {there} of {promised} bytes", COPY_AGAIN)
    if mpeg_frames is None:
        return None
    at += (100 if flags & 4 else 0) + (4 if flags & 8 else 0)
    samples = mpeg_frames * first.frame_samples
    if not tag[at : at + 4].isalnum():  # no "LAME" or "Lavc": delay and padding are unknown
        return max(0, samples - 2 * first.frame_samples)
    gaps = int.from_bytes(tag[at + 21 : at + 24], "big")
    return max(0, samples - (gaps >> 12) - (gaps & 0xFFF))

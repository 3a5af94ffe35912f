"""Links and end of an Ogg file, which neither decoding library reports.

An Ogg file may be a chain of links, each a stream with its own headers. FFmpeg decodes every link
with the headers of the first one, and stops where the number of channels changes. A link with
other headers must therefore be opened like a file of its own. Page format: RFC 3533.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

_BEGIN, _END = 2, 4  # flags of a page
_HEADER_PACKETS = 3


@dataclass(kw_only=True)
class _Headers:
    """The first packets of one logical stream."""

    packets: list[bytes] = field(default_factory=list)
    partial: bytes = b""

    def add(self, page: bytes) -> None:
        at = 27 + page[26]
        for size in page[27 : 27 + page[26]]:
            if len(self.packets) == _HEADER_PACKETS:
                return
            self.partial += page[at : at + size]
            at += size
            if size < 255:  # a packet ends with the first segment that is not full
                self.packets.append(self.partial)
                self.partial = b""

    def essence(self) -> bytes:
        """Return what must be equal in two links for one decoder to read both."""
        first, *others = self.packets or [self.partial]
        if first.startswith(b"OpusHead"):
            return first[9:10] + first[16:18]  # channels and gain
        return first + others[1] if len(others) > 1 else first  # Vorbis: without the comments


def read_parts(path: Path, start: int) -> tuple[list[tuple[int, int]], bool]:
    """Return the parts of the Ogg file at ``path``, whose pages begin at byte ``start``.

    The byte ranges are to be decoded as one stream; the flag tells whether the last page is an end.
    """
    links: list[tuple[int, dict[bytes, _Headers]]] = []
    in_body, flags, end = True, 0, start
    size = path.stat().st_size
    with path.open("rb") as file:
        for offset, page in _pages(file, start):
            flags, end = page[5], offset + len(page)
            if flags & _BEGIN and in_body:
                links.append((offset, {}))
            in_body = not flags & _BEGIN
            if links:
                links[-1][1].setdefault(page[14:18], _Headers()).add(page)
    starts, last = [start], None
    for offset, headers in links:
        essence = [stream.essence() for stream in headers.values()]
        if last is not None and essence != last:
            starts.append(offset)
        last = essence
    spans = list(zip(starts, [*starts[1:], size], strict=True))
    return spans, bool(flags & _END) and end <= size


def _pages(file: BinaryIO, offset: int) -> Iterator[tuple[int, bytes]]:
    """Yield offset and bytes of each page; a page that is cut has no flags and no content."""
    while (offset := _find_page(file, offset)) >= 0:
        file.seek(offset)
        head = file.read(27).ljust(27, b"\0")
        lacing = file.read(head[26])
        body = file.read(sum(lacing))
        if len(lacing) < head[26] or len(body) < sum(lacing):
            yield offset, head[:5] + b"\0" + head[6:26] + b"\0"
            return
        yield offset, head + lacing + body
        offset += 27 + len(lacing) + len(body)


def _find_page(file: BinaryIO, offset: int) -> int:
    """Return the offset of the next page, -1 without one; skips bytes between pages."""
    file.seek(offset)
    tail = b""
    while chunk := file.read(4 if not tail else 65536):
        place = (tail + chunk).find(b"OggS")
        if place >= 0:
            return offset + place
        offset += len(tail) + len(chunk) - 3
        tail = (tail + chunk)[-3:]
    return -1

"""Links and end of an Ogg file, which neither decoding library reports.

An Ogg file may be a chain of links, each a stream with its own headers. FFmpeg decodes every link
with the headers of the first one, and stops where the number of channels changes. A link with
other headers must therefore be opened like a file of its own. Page format: RFC 3533.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_BEGIN, _END = 2, 4  # flags of a page
_HEADER_PACKETS = 3


@dataclass(frozen=True, kw_only=True)
class OggParts:
    """``spans``: byte ranges to decode as one stream. ``is_ended``: the last page is an end."""

    spans: list[tuple[int, int]]
    is_ended: bool = True


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


def read_parts(path: Path, start: int) -> OggParts:
    """Return the parts of the Ogg file at ``path``, whose pages begin at byte ``start``."""
    links: list[tuple[int, dict[bytes, _Headers]]] = []
    in_body, flags, end = True, 0, start
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        size = len(data)
        for offset, page in _pages(data, start):
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
    return OggParts(spans=spans, is_ended=bool(flags & _END) and end <= size)


def _pages(data: mmap.mmap, offset: int) -> Iterator[tuple[int, bytes]]:
    """Yield offset and bytes of each page; the last one may be cut. Skips what is no page."""
    while (offset := data.find(b"OggS", offset)) >= 0:
        head = data[offset : offset + 282].ljust(27, b"\0")
        length = 27 + head[26] + sum(head[27 : 27 + head[26]])
        if offset + length > len(data):
            yield offset, head[:5] + b"\0" + head[6:26] + b"\0"  # cut: no flags, no content
            return
        yield offset, data[offset : offset + length]
        offset += length

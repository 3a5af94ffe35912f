"""The two decoding libraries: FFmpeg through PyAV, and libsndfile. The only importer of ``av``.

FFmpeg reads every format. libsndfile reads linear PCM: eight times faster, and right where FFmpeg
is not (24 valid bits in 32-bit containers, an ID3 tag before RIFF).
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from songcast.audio.formats import (
    DEMUXERS,
    MAX_CHANNELS,
    SONG_SUFFIXES,
    audio_error,
    check_channels,
    damaged,
    is_container,
    not_opened,
)
from songcast.audio.ogg import read_parts

BLOCK_FRAMES = 65536
# Sample rate in Hz, and samples (frames, channels) as decoded.
Frames = Iterator[tuple[int, NDArray[Any]]]

# libsndfile is asked for as much precision as a file holds; other subtypes are left to FFmpeg.
_READ_AS = {
    **dict.fromkeys(("PCM_S8", "PCM_U8", "PCM_16", "ULAW", "ALAW"), "int16"),
    **dict.fromkeys(("PCM_24", "PCM_32"), "int32"),
    **dict.fromkeys(("FLOAT", "DOUBLE"), "float64"),
}
# Not MPEG audio in WAV: libsndfile's mp3 decoder writes to the terminal.
_PCM_MAGIC = re.compile(
    rb"(RIFF|RIFX|RF64)....WAVE(?!fmt .{4}[\x50\x55]\0)|FORM....AIF[FC]|\.snd|dns\.|caff", re.DOTALL
)
# libsndfile's log where the header and the size of the file disagree.
_DECLARED = re.compile(r"\b(?:data|SSND|Data Size) *: *(\d+) \(should be (\d+)\)")
# Recorders that cannot seek back write such a length (arecord, sox, ffmpeg): it says nothing.
_UNKNOWN_BYTES = 0x7F000000
# Two codec frames of delay and padding: a lossy file may hold that much less than it declares.
_SLACK_FRAMES = 4608


@dataclass(kw_only=True)
class Stream:
    """A file being decoded.

    ``declared_frames``: as the header says, None where it does not; ``slack_frames`` fewer are
    no damage. ``blocks``: sample rate in Hz and samples (frames, channels), uint8, int16, int32
    or float; rate and channels may change in mid-stream. ``notes``: about the whole file.
    ``problems``: one message per packet that could not be decoded as it is; grows while blocks
    are read. ``trailing_problems``: after the last sample, where they may come from tags.
    """

    sample_rate_hz: int
    channels: int
    declared_frames: int | None
    slack_frames: int
    blocks: Frames
    counts_clipping: bool
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    trailing_problems: list[str] = field(default_factory=list)


@contextmanager
def open_stream(path: Path, start: int, head: bytes) -> Iterator[Stream]:
    """Open the file, whose content begins at byte ``start`` with ``head``.

    Raises ``AudioError``, also from ``blocks``, if the file holds no decodable audio.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if _PCM_MAGIC.match(head):
            pcm = _open_pcm(path, _Span(file, start, size) if start else None)
            if pcm is not None:
                with pcm:
                    yield _pcm_stream(path, pcm)
                return
        spans, is_ended = [(start if is_container(head) else 0, size)], True
        if head.startswith(b"OggS"):
            spans, is_ended = read_parts(path, start)
        with _Container(path, _Span(file, *spans[0]), head) as first:
            others = (_Container(path, _Span(file, *span), head) for span in spans[1:])
            notes = [] if is_ended else ["no end mark in the Ogg stream, it may have been cut"]
            yield first.stream(others, notes)


def _open_pcm(path: Path, content: "_Span | None") -> Any:
    """Return libsndfile's open file, None where it refuses, finds no frame or no linear PCM.

    ``content``: what follows a tag, where the file begins with one.
    """
    import soundfile

    try:
        # Bytes: a name that is not valid unicode works too. Absolute: "-" is not stdin.
        file = soundfile.SoundFile(content or os.fsencode(path.absolute()))
    except soundfile.LibsndfileError:
        return None
    if file.subtype in _READ_AS and file.frames > 0:
        return file
    file.close()
    return None


def _pcm_stream(path: Path, file: Any) -> Stream:
    declared = file.frames
    for stated, present in _DECLARED.findall(file.extra_info):
        if int(present) < int(stated) < _UNKNOWN_BYTES:
            declared = max(declared, int(stated) // max(1, round(int(present) / file.frames)))
    return Stream(
        sample_rate_hz=file.samplerate,
        channels=file.channels,
        declared_frames=declared,
        slack_frames=0,
        blocks=_pcm_blocks(path, file),
        counts_clipping=file.subtype in ("FLOAT", "DOUBLE"),
    )


def _pcm_blocks(path: Path, file: Any) -> Frames:
    import soundfile

    while True:
        try:
            block = file.read(BLOCK_FRAMES, dtype=_READ_AS[file.subtype], always_2d=True)
        except soundfile.LibsndfileError as error:
            raise damaged(path, error.error_string) from error
        if not len(block):
            return
        yield file.samplerate, block


class _Span:
    """A part of a file, as a file for FFmpeg, which can open no other then.

    ``name``: MPEG audio behind a broken tag is recognised by its suffix only.
    """

    def __init__(self, file: BinaryIO, start: int, stop: int) -> None:
        suffix = Path(file.name).suffix.lower()
        self.name = f"song{suffix if suffix in SONG_SUFFIXES else '.mp3'}"
        self._file, self._start, self._stop = file, start, stop
        file.seek(start)

    def read(self, size: int) -> bytes:
        return self._file.read(max(0, min(size, self._stop - self._file.tell())))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: self._start, os.SEEK_CUR: self._file.tell(), os.SEEK_END: self._stop}
        target = min(max(base[whence] + offset, self._start), self._stop)
        return self._file.seek(target) - self._start

    def tell(self) -> int:
        return self._file.tell() - self._start


class _Container:
    """A file that FFmpeg has opened, and its first audio stream. A context manager."""

    def __init__(self, path: Path, span: _Span, head: bytes) -> None:
        self._path, self._span, self._head = path, span, head

    def __enter__(self) -> Self:
        import av

        # Warnings tell which lengths are estimates; repeated messages are counted here.
        av.logging.set_level(av.logging.WARNING)
        av.logging.set_skip_repeated(False)
        options = {"format_whitelist": ",".join(DEMUXERS)}
        try:
            with av.logging.Capture() as log:
                self._container = av.open(self._span, options=options, metadata_errors="ignore")
        except av.FFmpegError as error:
            reason = log[-1][2] if log else str(error.strerror)
            if "whitelist" in reason:
                reason = "not a supported format"
            raise not_opened(self._path, self._head, " ".join(reason.split())) from error
        self._is_estimate = any("Estimating duration" in message for _, _, message in log)
        return self

    def __exit__(self, *_: object) -> None:
        import av

        with av.logging.Capture():
            self._container.close()

    def stream(self, others: Iterable[Self], notes: list[str]) -> Stream:
        """Return the first audio stream, followed by those of ``others``. Raises ``AudioError``."""
        source = self._source()
        codec = source.codec_context
        header_rate = codec.sample_rate  # decoding changes it
        problems: list[str] = []
        trailing: list[str] = []
        frames = self._frames(source, problems, trailing)
        first = next(frames, None)
        if first is None:
            reason = [*problems, *trailing, "no samples in it"][0]
            raise not_opened(self._path, self._head, reason)
        rate = header_rate or first[0]
        rest = chain.from_iterable(other.opened(problems, trailing) for other in others)
        is_exact = codec.name.startswith(("pcm_", "flac"))
        return Stream(
            sample_rate_hz=rate,
            channels=first[1].shape[1],
            declared_frames=self._declared_frames(source, rate),
            slack_frames=0 if is_exact and source.time_base == Fraction(1, rate) else _SLACK_FRAMES,
            blocks=_joined(chain([first], frames, rest)),
            counts_clipping=codec.name.startswith("pcm_f"),
            notes=notes,
            problems=problems,
            trailing_problems=trailing,
        )

    def opened(self, problems: list[str], trailing: list[str]) -> Frames:
        """Open the container, decode its first audio stream and close it."""
        with self:
            yield from self._frames(self._source(), problems, trailing)

    def _source(self) -> Any:
        if not self._container.streams.audio:
            raise audio_error(self._path, "has no audio stream", "use a file with sound")
        source = self._container.streams.audio[0]
        if source.codec_context is None or source.codec_context.name.startswith("pcm_s64"):
            raise audio_error(
                self._path, "its codec is not supported", "convert it, for example to flac"
            )
        if source.codec_context.name == "flac":  # report it; the samples stay the same
            source.codec_context.options = {"err_detect": "crccheck"}
        return source

    def _declared_frames(self, source: Any, rate: int) -> int | None:
        """Return the length in the header. Ogg, ADTS and LATM have none, Matroska has seconds."""
        if self._is_estimate or self._container.format.name in ("ogg", "aac", "loas"):
            return None
        if source.duration is not None:
            return int(source.duration * source.time_base * rate)
        if self._container.duration is not None:
            return int(self._container.duration * rate) // 1_000_000
        return None

    def _frames(self, source: Any, problems: list[str], trailing: list[str]) -> Frames:
        """Decode packet by packet; a packet that cannot be decoded is noted and left out."""
        import av

        codec = source.codec_context
        # FFmpeg's PCM decoder complains about the padding at the end of a chunk.
        names = (self._container.format.name, "" if codec.name.startswith("pcm_") else codec.name)
        packets = chain(self._container.demux(source), [None])  # after a demuxing error: flush
        is_first = True
        while True:
            frames: list[Any] = []
            problem = ""
            with av.logging.Capture() as log:
                try:
                    packet = next(packets)
                    frames = source.decode(packet)
                    if packet is not None and packet.is_corrupt:
                        problem = "a packet is incomplete"
                except StopIteration:
                    return
                except EOFError:
                    pass  # flushed before
                except av.FFmpegError as error:
                    problem = str(error.strerror)
            for level, name, message in log:
                if level <= av.logging.ERROR and name in names:
                    problem = " ".join(message.partition(" at PTS")[0].split())
                    break
            if problem:
                trailing.append(problem)
            for frame in frames:
                channels = frame.layout.nb_channels
                if channels > MAX_CHANNELS and is_first:
                    check_channels(self._path, channels)
                elif channels > MAX_CHANNELS:  # PyAV reads beyond the memory of 9 and more
                    trailing.append(f"a packet with {channels} channels")
                elif frame.samples:
                    is_first = False
                    problems += trailing
                    trailing.clear()
                    # The frame itself still carries the rate before a change.
                    yield codec.sample_rate or frame.sample_rate, _samples(frame)


def _samples(frame: Any) -> NDArray[Any]:
    """Return the frame's samples (frames, channels), as FFmpeg decoded them."""
    samples: NDArray[Any] = frame.to_ndarray()
    if frame.format.is_planar:
        return samples.T
    return samples.reshape(-1, frame.layout.nb_channels)


def _joined(frames: Iterable[tuple[int, NDArray[Any]]]) -> Frames:
    """Join frames of one rate and channel count to blocks of up to ``BLOCK_FRAMES``."""
    waiting: list[NDArray[Any]] = []
    waiting_rate = count = 0
    for rate, samples in frames:
        is_alike = waiting and (rate, samples.shape[1]) == (waiting_rate, waiting[0].shape[1])
        if waiting and (not is_alike or count + len(samples) > BLOCK_FRAMES):
            yield waiting_rate, np.concatenate(waiting)
            waiting, count = [], 0
        waiting.append(samples)
        waiting_rate, count = rate, count + len(samples)
    if waiting:
        yield waiting_rate, np.concatenate(waiting)

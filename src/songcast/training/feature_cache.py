"""Features of the training songs, computed once and kept as memory maps.

``features/<song>-<key>/`` holds one array per stream, of the song up to the end of its validation
passage, or of one passage of a longer song. The key covers the samples, the settings and the code
that computes the features, so a change recomputes only what it affects. The folder is a cache: it
may be deleted at any time. Each machine that trains has its own.
"""

import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from songcast.config import Engine
from songcast.data.code_digest import code_digest
from songcast.data.corpus import (
    TEST,
    TRAIN,
    VALIDATION,
    WHOLE,
    Budget,
    PreparedSong,
    Span,
    Splits,
    open_array,
)
from songcast.distributed.engine import each_in_threads
from songcast.errors import CorpusError
from songcast.files import sync_file
from songcast.forecasting.distribution import BLOCK_FRAMES
from songcast.forecasting.front_end import FrontEndSettings
from songcast.training.feature_streams import DTYPES, write_streams

# The modules that turn songs into features; their code is part of the key.
CODE = (
    "songcast.training.feature_streams",
    "songcast.data.decoding",
)
Array = NDArray[Any]
# Of the default filter bank and step, for `songcast estimate`.
BYTES_PER_SAMPLE = 25.6


@dataclass(frozen=True, kw_only=True)
class SongFeatures:
    """Streams of one song, or of a passage of it (see ``features.Features``).

    ``first``: the frame of the song at which the streams begin, after ``warm_up`` frames of which
    nothing is kept. ``splits``: train and validation, in frames of the streams. ``step_frames``:
    frames per step of the LSTM. ``folder``: of the arrays, which ``write`` computes (see
    ``compute_features``).
    """

    slug: str
    channels: int
    experts: int
    step_frames: int
    splits: dict[str, tuple[int, int]]
    folder: Path
    first: int = 0
    warm_up: int = 0
    write: Callable[[Path], None] = field(compare=False, repr=False)

    @property
    def is_computed(self) -> bool:
        """Whether the folder has all arrays."""
        return (self.folder / "done").is_file()

    def read(self, name: str, channel: int, start: int, stop: int) -> Array:
        """Return the rows from ``start`` to ``stop`` of a channel in a stream.

        Reads the file once; a memory map would load it page by page. Raises ``CorpusError``
        for a file that is too short.
        """
        path, shape, offset = _layout(self.folder, name)
        rows = np.empty((stop - start, *shape[2:]), DTYPES[name])
        with path.open("rb") as file:
            file.seek(offset + (channel * shape[1] + start) * rows.itemsize * prod(shape[2:]))
            if file.readinto(rows.data) < rows.nbytes:
                raise CorpusError(f"{path}: is too short; remove {self.folder} and run again")
        return rows


@lru_cache(maxsize=4096)
def _layout(folder: Path, name: str) -> tuple[Path, tuple[int, ...], int]:
    """Return the file and the shape of a stream, and the byte at which its values begin."""
    path = folder / f"{name}.npy"
    array = open_array(path)
    return path, array.shape, array.offset


def song_features(
    songs: Iterable[PreparedSong],
    settings: FrontEndSettings,
    step_frames: int,
    folder: Path,
    *,
    budget: Budget = WHOLE,
) -> list[SongFeatures]:
    """Return what the features of ``songs`` are, kept in ``folder``; nothing is computed.

    Songs without a train or validation passage are left out. Of a song that is longer than
    ``budget`` there is one entry per passage; those of the train split are named ``SLUG+1``, ``+2``
    and so on.
    """
    taps = {n: t.tolist() for n, t in (settings.taps or {}).items()}
    code, fixed = code_digest(*CODE), [settings.to_json(), taps, step_frames]

    def entry(
        song: PreparedSong, slug: str, first: int, warm_up: int, splits: Splits
    ) -> SongFeatures:
        """Describe a part of a song from frame ``first``, with ``splits`` in frames of the song.

        Nothing is kept of ``warm_up`` frames at its beginning.
        """
        last = max(stop for _, stop in splits.values())
        begin = first + warm_up
        part = f"{song.sha256} {song.sample_rate_hz} {first} {begin} {last}"
        key = hashlib.sha256(json.dumps([code, part, *fixed]).encode()).hexdigest()[:16]
        return SongFeatures(
            slug=slug,
            channels=song.channels,
            experts=len(settings.expert_names),
            step_frames=step_frames,
            splits={k: (start - begin, stop - begin) for k, (start, stop) in splits.items()},
            folder=folder / f"{slug}-{key}",
            first=begin,
            warm_up=warm_up,
            write=lambda scratch: write_streams(
                song.samples[first:last], settings, step_frames, scratch, warm_up
            ),
        )

    wanted = (song for song in songs if training_frames(song))
    return [entry(song, *part) for song in wanted for part in _parts(song, budget)]


def compute_features(
    features: Sequence[SongFeatures],
    engine: Engine = "local",
    advance: Callable[[], None] = lambda: None,
) -> None:
    """Compute those that are not in their folder yet, on all cores or on a Ray cluster.

    ``advance`` is called after each of ``features``.
    """
    wanted = list({song.folder: song for song in features}.values())
    for _ in each_in_threads(engine, _compute, wanted):
        advance()


@contextmanager
def in_use(folder: Path, max_bytes: float | None = None) -> Iterator[None]:
    """Mark ``folder`` as used inside the block, so that nobody removes features.

    If no other process uses it, half-written features are removed at the beginning, and at the end
    those that were not used for longest, until the folder has ``max_bytes`` or only those used in
    the block are left.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    with path.open("a") as lock:
        if _alone(lock):
            for scratch in folder.glob(".*-*"):
                shutil.rmtree(scratch, ignore_errors=True)
        with suppress(OSError):  # a network file system may lack locks
            fcntl.flock(lock, fcntl.LOCK_SH)
        os.utime(path)
        began = path.stat().st_mtime_ns
        yield
        if max_bytes is not None and _alone(lock):
            _remove_unused(folder, max_bytes, began)


def _alone(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # another process uses the folder
        return False
    return True


def _remove_unused(folder: Path, max_bytes: float, began_ns: int) -> None:
    """Remove the features that were not used since ``began_ns``, oldest first, as in ``in_use``."""
    entries = [done.parent for done in folder.glob("*/done")]
    sizes = {entry: sum(f.stat().st_size for f in entry.iterdir()) for entry in entries}
    used = {entry: (entry / "done").stat().st_mtime_ns for entry in entries}
    total = sum(sizes.values())
    for entry in sorted(entries, key=lambda entry: used[entry]):
        if total <= max_bytes or used[entry] >= began_ns:
            return
        shutil.rmtree(entry, ignore_errors=True)
        total -= sizes[entry]


def training_frames(song: PreparedSong) -> int:
    """Return the number of frames up to the end of train and validation, 0 for a held-out song."""
    return max((stop for name, (_, stop) in song.splits.items() if name != TEST), default=0)


def budgeted(song: PreparedSong, budget: Budget) -> dict[str, list[Span]]:
    """Return the passages to learn from and to validate on, by split.

    The splits share the budget in proportion to their lengths. A song of which all passages begin
    with its first frame is used whole.
    """
    splits = {k: v for k, v in song.splits.items() if k in (TRAIN, VALIDATION)}
    total = sum(stop - start for start, stop in splits.values())
    rate = song.sample_rate_hz
    spans = {k: budget.spans(a, b, rate, (b - a) / total) for k, (a, b) in splits.items()}
    cost = sum(stop - first for parts in spans.values() for first, _, stop in parts)
    if max(stop for _, stop in splits.values()) <= cost:
        return {k: [(0, *split)] for k, split in splits.items()}
    return spans


def _parts(song: PreparedSong, budget: Budget) -> Iterator[tuple[str, int, int, Splits]]:
    """Yield slug, first frame, frames of warm-up and splits of each part to compute."""
    spans = budgeted(song, budget)
    if all(first == 0 for parts in spans.values() for first, _, _ in parts):
        yield song.slug, 0, 0, {k: (start, stop) for k, [(_, start, stop)] in spans.items()}
        return
    for split, parts in spans.items():
        for number, (first, start, stop) in enumerate(parts, 1):
            slug = f"{song.slug}+{number}" if split == TRAIN else song.slug
            # A block before the passage is kept: the network's inputs look back.
            kept = max((start - first) // BLOCK_FRAMES - 1, 0) * BLOCK_FRAMES
            yield slug, first, kept, {split: (start, stop)}


def _compute(song: SongFeatures) -> None:
    with suppress(FileNotFoundError):
        os.utime(song.folder / "done")
        return
    scratch = song.folder.with_name(f".{song.folder.name}-{secrets.token_hex(4)}")
    scratch.mkdir(parents=True)
    try:
        song.write(scratch)
        for stream in scratch.iterdir():  # `done` must not survive a power cut without them
            sync_file(stream)
        (scratch / "done").touch()
        _publish(scratch, song)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _publish(scratch: Path, song: SongFeatures) -> None:
    """Rename ``scratch`` to the folder of ``song``, unless another process has done so before.

    Trials of a sweep compute the same features at once, and may already read from the folder.
    """
    if not song.is_computed:
        shutil.rmtree(song.folder, ignore_errors=True)
    try:
        scratch.rename(song.folder)
    except OSError:
        if not song.is_computed:
            raise

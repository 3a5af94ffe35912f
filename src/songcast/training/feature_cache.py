"""Features of the training songs, computed once and kept as memory maps.

``features/<song>-<key>/`` holds one array per stream, of the song up to the end of its validation
passage, or of one passage of a longer song. The key covers the samples, the settings and the code
that computes the features, so a change recomputes only what it affects. The folder is a cache: it
may be deleted at any time.
"""

import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
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
    open_array,
)
from songcast.distributed.engine import each, free_cores
from songcast.errors import CorpusError
from songcast.files import sync_file
from songcast.forecasting.distribution import BLOCK_FRAMES
from songcast.forecasting.front_end import FrontEndSettings
from songcast.training.feature_streams import DTYPES, stream_path, write_streams

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
    """Streams of one song, or of a passage of it, on disk (see ``features.Features``).

    ``first``: the frame of the song at which the streams begin. ``splits``: train and validation,
    in frames of the streams. ``step_frames``: frames per step of the LSTM. ``folder``: of the
    arrays.
    """

    slug: str
    channels: int
    experts: int
    step_frames: int
    splits: dict[str, tuple[int, int]]
    folder: Path
    first: int = 0

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
    path = stream_path(folder, name)
    array = open_array(path)
    return path, array.shape, array.offset


@dataclass(frozen=True, kw_only=True)
class _Passage:
    """Samples to compute features of: a part of a song.

    ``warm_up``: frames at the beginning of which nothing is kept. ``first``: the first one kept, in
    frames of the song. ``splits`` count from there.
    """

    slug: str
    key: str
    channels: int
    splits: dict[str, tuple[int, int]]
    read: Callable[[], NDArray[np.int16]]
    warm_up: int = 0
    first: int = 0


def open_features(
    songs: Iterable[PreparedSong],
    settings: FrontEndSettings,
    step_frames: int,
    folder: Path,
    *,
    budget: Budget = WHOLE,
    engine: Engine = "local",
) -> list[SongFeatures]:
    """Return the features of ``songs``, computing those that ``folder`` does not have yet.

    Songs without a train or validation passage are left out. Of a song that is longer than
    ``budget`` there is one entry per passage; those of the train split are named ``SLUG+1``, ``+2``
    and so on.
    """
    wanted = [song for song in songs if training_frames(song)]
    passages = [passage for song in wanted for passage in _song_passages(song, budget)]

    code = code_digest(*CODE)

    def work(passage: _Passage) -> SongFeatures:
        return _open_passage(passage, settings, step_frames, folder, code)

    with in_use(folder):
        if engine == "ray":
            by_slug = {song.slug: song for song in each(engine, work, passages)}
            return [by_slug[passage.slug] for passage in passages]
        # The filters release the interpreter lock: threads keep all cores busy.
        with ThreadPoolExecutor(free_cores()) as pool:
            return list(pool.map(work, passages))


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


def _song_passages(song: PreparedSong, budget: Budget) -> list[_Passage]:
    spans = budgeted(song, budget)
    if all(first == 0 for parts in spans.values() for first, _, _ in parts):
        splits = {k: (start, stop) for k, [(_, start, stop)] in spans.items()}
        return [_part(song, song.slug, 0, 0, splits)]
    passages = []
    for split, parts in spans.items():
        for number, (first, start, stop) in enumerate(parts, 1):
            slug = f"{song.slug}+{number}" if split == TRAIN else song.slug
            # A block before the passage is kept: the network's inputs look back.
            kept = max((start - first) // BLOCK_FRAMES - 1, 0) * BLOCK_FRAMES
            passages.append(_part(song, slug, first, kept, {split: (start, stop)}))
    return passages


def _part(
    song: PreparedSong, slug: str, first: int, warm_up: int, splits: Mapping[str, tuple[int, int]]
) -> _Passage:
    """Return a part of a song from frame ``first``, with ``splits`` in frames of the song."""
    last = max(stop for _, stop in splits.values())
    begin = first + warm_up
    return _Passage(
        slug=slug,
        key=f"{song.sha256} {song.sample_rate_hz} {first} {begin} {last}",
        channels=song.channels,
        splits={k: (start - begin, stop - begin) for k, (start, stop) in splits.items()},
        read=lambda: song.samples[first:last],
        warm_up=warm_up,
        first=begin,
    )


def _open_passage(
    passage: _Passage, settings: FrontEndSettings, step_frames: int, folder: Path, code: str
) -> SongFeatures:
    target = folder / f"{passage.slug}-{_key(passage, settings, step_frames, code)}"
    try:
        os.utime(target / "done")
    except FileNotFoundError:
        scratch = folder / f".{target.name}-{secrets.token_hex(4)}"
        scratch.mkdir(parents=True)
        try:
            write_streams(passage.read(), settings, step_frames, scratch, passage.warm_up)
            for stream in scratch.iterdir():  # `done` must not survive a power cut without them
                sync_file(stream)
            (scratch / "done").touch()
            _publish(scratch, target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return SongFeatures(
        slug=passage.slug,
        channels=passage.channels,
        experts=len(settings.expert_names),
        step_frames=step_frames,
        splits=passage.splits,
        folder=target,
        first=passage.first,
    )


def _publish(scratch: Path, target: Path) -> None:
    """Rename ``scratch`` to ``target``, unless another process has done so before.

    Trials of a sweep compute the same features at once, and may already read from ``target``.
    """
    if not (target / "done").is_file():
        shutil.rmtree(target, ignore_errors=True)
    try:
        scratch.rename(target)
    except OSError:
        if not (target / "done").is_file():
            raise


def _key(passage: _Passage, settings: FrontEndSettings, step_frames: int, code: str) -> str:
    taps = {n: t.tolist() for n, t in (settings.taps or {}).items()}
    parts = [code, passage.key, settings.to_json(), taps, step_frames]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

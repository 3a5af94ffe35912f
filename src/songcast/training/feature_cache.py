"""Features of the training songs, computed once and kept as memory maps.

``features/<song>-<key>/`` holds one array per stream, up to the end of the validation passage;
the key covers the song, the front end and the frame, so a change recomputes only what it
touches. The folder is a cache: it may be deleted at any time.
"""

import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from songcast.config import Engine
from songcast.data.arrays import open_array
from songcast.data.augmentation import AUGMENTATIONS, augment, augmented_frames
from songcast.data.corpus import TEST, TRAIN, VALIDATION, PreparedSong
from songcast.distributed.engine import each
from songcast.errors import CorpusError
from songcast.files import sync_file
from songcast.forecasting import features
from songcast.forecasting.distribution import BLOCK_FRAMES
from songcast.forecasting.front_end import FrontEndSettings

# Raised when the same settings would give other features.
FORMAT = 3
# Distances that decide the code length stay in single precision; what only the network reads
# is kept in half.
DTYPES: dict[str, type[np.floating[Any]]] = {
    "unit": np.float32,
    "residual": np.float32,
    "side": np.float16,
    "base": np.float16,
    "summary": np.float16,
}
Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class SongFeatures:
    """Streams of one song (see ``features.Features``), from its first frame on, on disk.

    ``splits``: as in the prepared song, train and validation only. ``folder``: of its arrays.
    """

    slug: str
    channels: int
    step_frames: int
    splits: dict[str, tuple[int, int]]
    folder: Path

    @property
    def streams(self) -> dict[str, Array]:
        """The streams by name, as memory maps.

        Opened anew at each access (0.5 ms): ten thousand songs do not hold fifty thousand open
        files. Keep them while you need them.
        """
        return {name: open_array(self._path(name)) for name in DTYPES}

    def width(self, name: str) -> tuple[int, ...]:
        """Return the shape of one row of a stream: (features,), or () for a number."""
        return _layout(self._path(name))[0][2:]

    def read(self, name: str, channel: int, start: int, rows: Array) -> Array:
        """Fill ``rows``, of the type that the stream is kept in, from row ``start`` on; return it.

        One read of the file where a map would fault in page by page. Raises ``CorpusError``
        for a file that was cut short.
        """
        path = self._path(name)
        shape, offset = _layout(path)
        with path.open("rb") as file:
            file.seek(offset + (channel * shape[1] + start) * rows.itemsize * prod(shape[2:]))
            if file.readinto(rows.data) < rows.nbytes:
                raise CorpusError(f"{path}: was cut short; remove {self.folder}, it is made anew")
        return rows

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"


@lru_cache(maxsize=4096)
def _layout(path: Path) -> tuple[tuple[int, ...], int]:
    """Return the shape of an array on disk, and at which byte it begins."""
    kept = open_array(path)
    return kept.shape, kept.offset


@dataclass(frozen=True, kw_only=True)
class _Passage:
    """Samples to compute features of: a song's train and validation part, or an augmentation."""

    slug: str
    key: str
    channels: int
    splits: dict[str, tuple[int, int]]
    read: Callable[[], NDArray[np.int16]]


def open_features(
    songs: Iterable[PreparedSong],
    settings: FrontEndSettings,
    step_frames: int,
    folder: Path,
    *,
    augmentations: int = 0,
    augmentation_seconds: float = 9.0,
    engine: Engine = "local",
) -> list[SongFeatures]:
    """Return the features of ``songs``, computing those that ``folder`` does not have yet.

    Songs without a train or validation passage are left out. ``augmentations``: how many of
    ``AUGMENTATIONS`` follow each song, made of ``augmentation_seconds`` of its train passage each.
    """
    wanted = [song for song in songs if training_frames(song)]
    passages = [_song_passage(song) for song in wanted]
    passages += [
        _augmented_passage(song, number, augmentation_seconds)
        for number in range(augmentations)
        for song in wanted
        if TRAIN in song.splits
    ]

    def work(passage: _Passage) -> SongFeatures:
        return _open_passage(passage, settings, step_frames, folder)

    with _in_use(folder):
        if engine == "ray":
            found = {song.slug: song for song in each(engine, work, passages)}
            return [found[passage.slug] for passage in passages]
        # Experts release the interpreter lock: two songs keep two cores busy, without processes.
        with ThreadPoolExecutor() as pool:
            return list(pool.map(work, passages))


@contextmanager
def _in_use(folder: Path) -> Iterator[None]:
    """Keep others from tidying ``folder``; where nobody uses it, remove what kills left behind."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # another training computes here
            pass
        else:
            for half_written in folder.glob(".*-*"):
                shutil.rmtree(half_written, ignore_errors=True)
        with suppress(OSError):  # a network's file system may have no locks
            fcntl.flock(lock, fcntl.LOCK_SH)
        yield


def training_frames(song: PreparedSong) -> int:
    """How much of the song may be learned from: up to the end of train and validation."""
    return max((stop for name, (_, stop) in song.splits.items() if name != TEST), default=0)


def _song_passage(song: PreparedSong) -> _Passage:
    frames = training_frames(song)
    return _Passage(
        slug=song.slug,
        key=f"{song.sha256} {song.sample_rate_hz} {frames}",
        channels=song.channels,
        splits={k: v for k, v in song.splits.items() if k in (TRAIN, VALIDATION)},
        read=lambda: song.samples[:frames],
    )


def _augmented_passage(song: PreparedSong, number: int, seconds: float) -> _Passage:
    augmentation = AUGMENTATIONS[number]
    start, stop = song.splits[TRAIN]
    length = min(round(seconds * song.sample_rate_hz * augmentation.speed), stop - start)
    # Each augmentation plays another part of the song.
    first = start + (stop - start - length) * number // max(len(AUGMENTATIONS) - 1, 1)

    def read() -> NDArray[np.int16]:
        return augment(song.samples[first : first + length], song.sample_rate_hz, augmentation)

    return _Passage(
        slug=f"{song.slug}+{augmentation.name}",
        key=f"{song.sha256} {song.sample_rate_hz} {first} {length} {augmentation}",
        channels=song.channels,
        splits={TRAIN: (0, augmented_frames(length, song.sample_rate_hz, augmentation))},
        read=read,
    )


def _open_passage(
    passage: _Passage, settings: FrontEndSettings, step_frames: int, folder: Path
) -> SongFeatures:
    target = folder / f"{passage.slug}-{_digest(passage, settings, step_frames)}"
    if not (target / "done").is_file():
        scratch = folder / f".{target.name}-{secrets.token_hex(4)}"
        scratch.mkdir(parents=True)
        try:
            _compute(passage, settings, step_frames, scratch)
            for stream in scratch.iterdir():  # after a power cut, `done` speaks of what is there
                sync_file(stream)
            (scratch / "done").touch()
            _publish(scratch, target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return SongFeatures(
        slug=passage.slug,
        channels=passage.channels,
        step_frames=step_frames,
        splits=passage.splits,
        folder=target,
    )


def _publish(scratch: Path, target: Path) -> None:
    """Give ``scratch`` the name ``target``, unless another training was first.

    Trials of a sweep compute the same features at once, and may already read from ``target``.
    """
    if not (target / "done").is_file():
        shutil.rmtree(target, ignore_errors=True)
    try:
        scratch.rename(target)
    except OSError:
        if not (target / "done").is_file():
            raise


def _compute(passage: _Passage, settings: FrontEndSettings, step_frames: int, folder: Path) -> None:
    samples = passage.read()
    frames = len(samples)
    front_end = settings.open(passage.channels)
    maps: dict[str, Any] = {}
    for start in range(0, frames, BLOCK_FRAMES):
        block = np.ascontiguousarray(samples[start : min(start + BLOCK_FRAMES, frames)])
        found = features.extract(front_end.encode(block), step_frames)
        for name, dtype in DTYPES.items():
            stream = getattr(found, name)
            rows, at = (
                (frames, start)
                if name != "summary"
                else (frames // step_frames, start // step_frames)
            )
            if name not in maps:
                shape = (passage.channels, rows, *stream.shape[2:])
                path = folder / f"{name}.npy"
                maps[name] = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
                _reserve(path)
            maps[name][:, at : at + stream.shape[1]] = stream


def _reserve(path: Path) -> None:
    """Give a mapped file all of its blocks: on a full disk, writing to a hole ends in SIGBUS."""
    if hasattr(os, "posix_fallocate"):  # macOS has none
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _digest(passage: _Passage, settings: FrontEndSettings, step_frames: int) -> str:
    taps = {n: t.tolist() for n, t in (settings.taps or {}).items()}
    said = [FORMAT, passage.key, settings.kind, settings.filter_bank.key(), taps, step_frames]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]

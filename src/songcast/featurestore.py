"""Features of the training songs, computed once and kept as memory maps.

``features/<song>-<key>/`` holds one array per stream, up to the end of the validation passage;
the key covers the song, the front end and the frame, so a change recomputes only what it
touches. The folder is a cache: it may be deleted at any time.
"""

import hashlib
import json
import secrets
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from songcast.corpus import TEST, TRAIN, VALIDATION, PreparedSong
from songcast.forecasters import features
from songcast.forecasters.front_end import FrontEndSettings
from songcast.forecasters.mixture import BLOCK_FRAMES

# Raised when the same settings would give other features.
FORMAT = 1
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

    ``splits``: as in the prepared song, train and validation only.
    """

    slug: str
    channels: int
    frame: int
    splits: dict[str, tuple[int, int]]
    streams: dict[str, Array]


def open_features(
    songs: Iterable[PreparedSong], settings: FrontEndSettings, frame: int, folder: Path
) -> list[SongFeatures]:
    """Return the features of ``songs``, computing those that ``folder`` does not have yet.

    Songs without a train or validation passage are left out.
    """
    wanted = [song for song in songs if training_frames(song)]
    # Experts release the interpreter lock: two songs keep two cores busy.
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda song: _open_song(song, settings, frame, folder), wanted))


def training_frames(song: PreparedSong) -> int:
    """How much of the song may be learned from: up to the end of train and validation."""
    return max((stop for name, (_, stop) in song.splits.items() if name != TEST), default=0)


def _open_song(
    song: PreparedSong, settings: FrontEndSettings, frame: int, folder: Path
) -> SongFeatures:
    target = folder / f"{song.slug}-{_key(song, settings, frame)}"
    if not (target / "done").is_file():
        scratch = folder / f".{target.name}-{secrets.token_hex(4)}"
        scratch.mkdir(parents=True)
        try:
            _compute(song, settings, frame, scratch)
            (scratch / "done").touch()
            shutil.rmtree(target, ignore_errors=True)
            scratch.rename(target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return SongFeatures(
        slug=song.slug,
        channels=song.channels,
        frame=frame,
        splits={k: v for k, v in song.splits.items() if k in (TRAIN, VALIDATION)},
        streams={name: np.load(target / f"{name}.npy", mmap_mode="r") for name in DTYPES},
    )


def _compute(song: PreparedSong, settings: FrontEndSettings, frame: int, folder: Path) -> None:
    samples = song.samples
    frames = training_frames(song)
    front_end = settings.open(song.channels)
    maps: dict[str, Any] = {}
    for start in range(0, frames, BLOCK_FRAMES):
        block = np.ascontiguousarray(samples[start : min(start + BLOCK_FRAMES, frames)])
        found = features.extract(front_end.hear(block), frame)
        for name, dtype in DTYPES.items():
            stream = getattr(found, name)
            rows, at = (frames, start) if name != "summary" else (frames // frame, start // frame)
            if name not in maps:
                shape = (song.channels, rows, *stream.shape[2:])
                path = folder / f"{name}.npy"
                maps[name] = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
            maps[name][:, at : at + stream.shape[1]] = stream


def _key(song: PreparedSong, settings: FrontEndSettings, frame: int) -> str:
    taps = {n: t.tolist() for n, t in (settings.taps or {}).items()}
    said = [
        FORMAT, song.sha256, song.sample_rate_hz, training_frames(song), song.channels,
        settings.kind, settings.experts.key(), taps, frame,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]

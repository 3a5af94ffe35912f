"""Compute the features of a passage of a song and write them to disk, one array per stream.

The feature cache hashes this module and all that it imports: a change of the code that computes
features makes new features.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from songcast.data.corpus import drop_pages
from songcast.forecasting.distribution import BLOCK_FRAMES
from songcast.forecasting.features import (
    MAX_DIFFERENCE,
    FeatureExtractor,
    own_size,
    relative_mixture,
)
from songcast.forecasting.front_end import FrontEndSettings

# Distances that decide the code length stay in single precision; what only the network reads
# is kept in half, or as one of 255 levels. ``features.fill_side`` and ``fill_summary`` add the
# columns that follow from others.
DTYPES: dict[str, type[np.number[Any]]] = {
    "unit": np.float32,
    "residual": np.float32,
    "differences": np.int8,
    "base": np.float16,
    "summary": np.float16,
}
# Levels are dense near zero: squares, from -MAX_DIFFERENCE to MAX_DIFFERENCE.
_ROOTS = np.arange(256, dtype=np.uint8).view(np.int8) / 127.0
LEVELS = (MAX_DIFFERENCE * _ROOTS * np.abs(_ROOTS)).astype(np.float16)


def quantised(differences: NDArray[np.float32]) -> NDArray[np.int8]:
    """Return differences in units, at most ``MAX_DIFFERENCE``, as numbers of ``LEVELS``.

    The error is at most 0.8 % of the geometric mean of the difference and ``MAX_DIFFERENCE``.
    """
    roots = np.sqrt(np.abs(differences) / np.float32(MAX_DIFFERENCE))
    return np.rint(np.copysign(127.0 * roots, differences)).astype(np.int8)


def dequantised(levels: NDArray[np.int8]) -> NDArray[np.float16]:
    """Return the inverse of ``quantised``."""
    return LEVELS[levels.view(np.uint8)]


def stream_path(folder: Path, name: str) -> Path:
    """Return the file of the stream ``name``, a key of ``DTYPES``."""
    return folder / f"{name}.npy"


def write_streams(
    samples: NDArray[np.int16],
    settings: FrontEndSettings,
    step_frames: int,
    folder: Path,
    warm_up: int = 0,
) -> None:
    """Write the features of ``samples`` (frames, channels) int16, see ``features.Features``.

    ``base`` is the stacking's mixture, see ``features.relative_mixture``; ``differences`` are the
    quantised ones of the side features; ``summary`` has the channel's own part. Each stream is
    (channels, rows, …): a row per frame, for ``summary`` a row per ``step_frames`` frames. The
    first ``warm_up`` frames, whole blocks, are not written. Memory does not grow with the passage.
    Raises ``OSError``.
    """
    frames, channels = samples.shape
    front_end = settings.open(channels)
    experts = len(settings.expert_names)
    extractor = FeatureExtractor(channels, experts, step_frames)
    maps: dict[str, Any] = {}
    for start in range(0, frames, BLOCK_FRAMES):
        block = np.ascontiguousarray(samples[start : min(start + BLOCK_FRAMES, frames)])
        encoded = front_end.encode(block)
        extracted = extractor.extract(encoded)
        if start < warm_up:
            continue
        streams: dict[str, NDArray[Any]] = {
            "unit": extracted.unit,
            "residual": extracted.residual,
            "differences": quantised(extracted.side[..., :experts]),
            "base": relative_mixture(encoded, extracted.unit),
            "summary": extracted.summary[..., : own_size(experts, step_frames)],
        }
        for name, dtype in DTYPES.items():
            stream = streams[name]
            per_row = step_frames if name == "summary" else 1
            if name not in maps:
                shape = (channels, (frames - warm_up) // per_row, *stream.shape[2:])
                maps[name] = _create(stream_path(folder, name), dtype, shape)
            first = (start - warm_up) // per_row
            maps[name][:, first : first + stream.shape[1]] = stream
            drop_pages(maps[name])


def _create(path: Path, dtype: type[np.number[Any]], shape: tuple[int, ...]) -> Any:
    """Return a new array file as a memory map, with all its blocks allocated."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with path.open("r+b") as file:
            # Writing to a hole of a mapped file ends in SIGBUS on a full disk.
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array

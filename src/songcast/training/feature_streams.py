"""Compute the features of a passage of a song and write them to disk, one array per stream.

The feature cache hashes this module and all that it imports: a change of the code that computes
features makes new features.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from songcast.forecasting.distribution import BLOCK_FRAMES
from songcast.forecasting.features import FeatureExtractor, relative_mixture
from songcast.forecasting.front_end import FrontEndSettings

# Distances that decide the code length stay in single precision; what only the network reads
# is kept in half.
DTYPES: dict[str, type[np.floating[Any]]] = {
    "unit": np.float32,
    "residual": np.float32,
    "side": np.float16,
    "base": np.float16,
    "summary": np.float16,
}


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

    ``base`` is the stacking's mixture, see ``features.relative_mixture``. Each stream is
    (channels, rows, …): a row per frame, for ``summary`` a row per ``step_frames`` frames. The
    first ``warm_up`` frames, whole blocks, are not written. Memory does not grow with the passage.
    Raises ``OSError``.
    """
    frames, channels = samples.shape
    front_end = settings.open(channels)
    extractor = FeatureExtractor(channels, len(settings.expert_names), step_frames)
    maps: dict[str, Any] = {}
    for start in range(0, frames, BLOCK_FRAMES):
        block = np.ascontiguousarray(samples[start : min(start + BLOCK_FRAMES, frames)])
        encoded = front_end.encode(block)
        extracted = extractor.extract(encoded)
        if start < warm_up:
            continue
        streams = {**vars(extracted), "base": relative_mixture(encoded, extracted.unit)}
        for name, dtype in DTYPES.items():
            stream = streams[name]
            per_row = step_frames if name == "summary" else 1
            if name not in maps:
                shape = (channels, (frames - warm_up) // per_row, *stream.shape[2:])
                maps[name] = _create(stream_path(folder, name), dtype, shape)
            first = (start - warm_up) // per_row
            maps[name][:, first : first + stream.shape[1]] = stream


def _create(path: Path, dtype: type[np.floating[Any]], shape: tuple[int, ...]) -> Any:
    """Return a new array file as a memory map, with all its blocks allocated."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with path.open("r+b") as file:
            # Writing to a hole of a mapped file ends in SIGBUS on a full disk.
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array

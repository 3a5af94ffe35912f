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
from songcast.forecasting.feature_kernels import MAX_DIFFERENCE, MIN_UNIT_LSB
from songcast.forecasting.features import FeatureExtractor, own_size
from songcast.forecasting.front_end import FrontEndSettings
from songcast.forecasting.stacking import RATES, SCALE_RATES
from songcast.forecasting.stacking_kernels import mix

F32 = NDArray[np.float32]
# What takes long to compute; ``batches.network_inputs`` derives the rest.
DTYPES: dict[str, type[np.number[Any]]] = {
    "samples": np.int16,
    "distances": np.float32,
    "mixing": np.float32,
    "differences": np.uint8,
    "summary": np.float16,
}
# Frames between two states of the stacking in ``mixing``; divides ``BLOCK_FRAMES``.
CHUNK_FRAMES = 2048
# A byte holds two differences. They have 15 levels, which are dense near zero: squares, from
# -MAX_DIFFERENCE to MAX_DIFFERENCE.
LARGEST = 7
_ROOTS = np.arange(-LARGEST, LARGEST + 2) / LARGEST
LEVELS = (MAX_DIFFERENCE * _ROOTS * np.abs(_ROOTS)).astype(np.float16)
# The two of each byte, as one number.
_PAIRS = np.stack([np.tile(LEVELS, 16), np.repeat(LEVELS, 16)], axis=-1).view(np.uint32)[:, 0]


def quantised(differences: F32) -> NDArray[np.uint8]:
    """Return bytes of differences (…, experts) in units, at most ``MAX_DIFFERENCE``."""
    roots = np.sqrt(np.abs(differences) / np.float32(MAX_DIFFERENCE))
    levels = (np.rint(np.copysign(LARGEST * roots, differences)) + LARGEST).astype(np.uint8)
    pairs: NDArray[np.uint8] = levels[..., ::2].copy()
    pairs[..., : levels.shape[-1] // 2] |= levels[..., 1::2] << 4
    return pairs


def dequantised(levels: NDArray[np.uint8], experts: int) -> NDArray[np.float16]:
    """Return the inverse of ``quantised``, (frames, experts), from bytes (frames, …)."""
    return _PAIRS.take(levels).view(np.float16)[:, :experts]


def derived(samples: NDArray[np.int16], distances: F32, state: F32, skip: int) -> tuple[F32, F32]:
    """Return the target (frames, 2) and the stacking's mixture in units (frames, 3 M).

    The target is the residual and the LSB; the mixture has log weights, locations relative to the
    stacked mean, and log scales. ``samples`` (frames,) and ``distances`` (frames, 2) of a channel,
    see ``write_streams``; ``state`` before them. The first ``skip`` frames are left out.
    """
    x = samples.astype(np.float64)
    locations = np.repeat(x[:, None] + distances, len(SCALE_RATES), axis=-1)
    weights, scales = np.empty((2, *locations.shape))
    unit, mean, low, mass = np.empty((4, len(x)))
    outputs = weights, scales, unit, mean, low, mass
    mix(x, locations, RATES, state.astype(np.float64), *outputs)
    lsb = 1.0 / np.maximum(unit, MIN_UNIT_LSB)
    parts = weights, (locations - mean[:, None]) * lsb[:, None], scales * lsb[:, None]
    shares, places, widths = (part[skip:].astype(np.float32) for part in parts)
    target = np.stack([(x - mean) * lsb, lsb], axis=-1)[skip:].astype(np.float32)
    return target, np.concatenate([np.log(shares), places, np.log(widths)], axis=-1)


def write_streams(
    samples: NDArray[np.int16],
    settings: FrontEndSettings,
    step_frames: int,
    folder: Path,
    warm_up: int = 0,
) -> None:
    """Write the features of ``samples`` (frames, channels) int16, see ``features.Features``.

    Each stream is (channels, rows, …), in NAME.npy. With a row per frame: ``samples``;
    ``distances`` of the stacking's two locations from the sample, in LSB; ``differences``, the
    quantised ones of the side features. With a row per ``CHUNK_FRAMES``: ``mixing``, the state of
    the stacking before them. With a row per ``step_frames``: ``summary``, the channel's own part.
    The first ``warm_up`` frames, whole chunks, are not written. Memory does not grow with the
    passage. Raises ``OSError``.
    """
    frames, channels = samples.shape
    front_end = settings.open(channels)
    experts = len(settings.expert_names)
    extractor = FeatureExtractor(channels, experts, step_frames)
    maps: dict[str, Any] = {}
    for start in range(0, frames, CHUNK_FRAMES):
        block = np.ascontiguousarray(samples[start : start + CHUNK_FRAMES])
        mixing = front_end.stacking.mixing[:, None].copy()
        encoded = front_end.encode(block)
        extracted = extractor.extract(encoded)
        if start < warm_up:
            continue
        regressions = encoded.locations[..., :: len(SCALE_RATES)]
        streams: dict[str, NDArray[Any]] = {
            "samples": block.T,
            "distances": regressions - block.T[..., None],
            "mixing": mixing,
            "differences": quantised(extracted.side[..., :experts]),
            "summary": extracted.summary[..., : own_size(experts, step_frames)],
        }
        for name, dtype in DTYPES.items():
            stream = streams[name]
            per_row = {"mixing": CHUNK_FRAMES, "summary": step_frames}.get(name, 1)
            if name not in maps:
                # A last step that is not complete has a row of zeros.
                shape = (channels, -(-(frames - warm_up) // per_row), *stream.shape[2:])
                maps[name] = _create(folder / f"{name}.npy", dtype, shape)
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

"""What the network sees: everything known before a sample, in units of the running error.

Errors are divided by a running scale, so that loud and quiet songs look alike; ``asinh``
keeps the rare big ones in range. Three streams: per frame of ``FRAME`` samples (for the LSTM),
per sample (for the head), and the combiner's mixture, which the network's output corrects.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from songcast.forecasting.front_end import EncodedBlock
from songcast.forecasting.stacking import Stacking

Rows = NDArray[np.float32]
# The running scale that serves as unit: the slow stacker's at middle speed, not below this.
UNIT_INDEX = Stacking.components - 2
MIN_UNIT_LSB = 0.3
# Experts further than this from the combined mean, in units, are no guide.
MAX_DIFFERENCE = 8.0


@dataclass(frozen=True, kw_only=True)
class Features:
    """Features of a passage; all arrays are float32, channels first.

    ``unit``: (channels, frames) LSB, what the others are measured in.
    ``residual``: (channels, frames), (x - combined mean) / unit: known after the sample.
    ``side``: (channels, frames, side), known before the sample.
    ``base``: (channels, frames, 3 M): the combiner's log weights, locations relative to its
    mean and log scales, in units.
    ``summary``: (channels, frames / frame, summary), known after its frame; whole frames only.
    """

    unit: Rows
    residual: Rows
    side: Rows
    base: Rows
    summary: Rows


def side_size(experts: int) -> int:
    """Number of side features per sample."""
    return experts + 4


def summary_size(experts: int, step_frames: int) -> int:
    """Number of summary features per frame: both channels' and the channel's number."""
    return 2 * (2 * experts + step_frames + 2) + 2


def extract(encoded: EncodedBlock, step_frames: int) -> Features:
    """Features of a block that begins at a frame's start."""
    x = encoded.samples.astype(np.float64).T  # (channels, frames)
    stacked = encoded.stacked
    mean = stacked.mean.T
    unit = np.maximum(stacked.running_scales[..., UNIT_INDEX].T, MIN_UNIT_LSB)
    residual = (x - mean) / unit
    # (frames, channels, experts) -> (channels, frames, experts)
    per_unit = (1.0 / unit).astype(np.float32)[..., None]
    difference = (encoded.means.swapaxes(0, 1) - mean[..., None]).astype(np.float32)
    difference *= per_unit
    np.clip(difference, -MAX_DIFFERENCE, MAX_DIFFERENCE, out=difference)
    # The ratio matters per frame only, at its last sample.
    last = slice(step_frames - 1, len(encoded.samples) // step_frames * step_frames, step_frames)
    ratio = (stacked.expert_error.swapaxes(0, 1)[:, last] + 0.1) / (unit[:, last, None] + 0.1)
    expert_error = np.log2(ratio.astype(np.float32))
    channels = len(x)
    number = np.broadcast_to(np.arange(channels, dtype=np.float64)[:, None], x.shape)
    other = np.zeros_like(x)
    if channels == 2:
        # The law of causality lets the second channel see the first one's present sample.
        other[1] = np.arcsinh(residual[0])
    stereo = np.full_like(x, channels - 1.0)
    side = np.concatenate([difference, _stack(other, number, stereo, np.log2(unit) / 8.0)], axis=-1)
    scales = np.log(stacked.scales.swapaxes(0, 1) / unit[..., None])
    locations = (stacked.locations.swapaxes(0, 1) - mean[..., None]) / unit[..., None]
    base = np.concatenate([np.log(stacked.weights.swapaxes(0, 1)), locations, scales], axis=-1)
    return Features(
        unit=unit.astype(np.float32),
        residual=residual.astype(np.float32),
        side=side.astype(np.float32),
        base=base.astype(np.float32),
        summary=_summaries(x, residual, difference, expert_error, unit, step_frames),
    )


def _stack(*columns: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack(columns, axis=-1)


def _summaries(
    x: NDArray[np.float64],
    residual: NDArray[np.float64],
    difference: Rows,
    expert_error: Rows,
    unit: NDArray[np.float64],
    step_frames: int,
) -> Rows:
    """Summary features of each whole frame, the channel's own before the other's."""
    channels, frames = x.shape
    count = frames // step_frames
    cut = count * step_frames
    r = np.arcsinh(residual[:, :cut]).reshape(channels, count, step_frames)
    d = difference[:, :cut].reshape(channels, count, step_frames, -1)
    own = np.concatenate(
        [
            np.mean(r[..., None] * d, axis=2),
            expert_error,
            r,
            np.log2(unit[:, :cut].reshape(r.shape)[..., -1:]) / 8.0,
            np.log2(1.0 + np.mean(np.abs(x[:, :cut].reshape(r.shape)), -1, keepdims=True)) / 8.0,
        ],
        axis=-1,
    )
    other = own[::-1] if channels == 2 else np.zeros_like(own)
    tags = np.empty((channels, count, 2))
    tags[..., 0] = np.arange(channels)[:, None]
    tags[..., 1] = channels - 1.0
    return np.concatenate([own, other, tags], axis=-1).astype(np.float32)

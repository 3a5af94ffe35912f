"""The network's inputs: what is known before each sample, in units of the running error.

Differences are divided by a running scale, so that loud and quiet songs look alike; ``asinh``
limits rare large values. There are three streams: per step of ``step_frames`` frames (for the
LSTM), per sample (for the head), and the stacking's mixture, which the network's output corrects.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from songcast.forecasting.stacking import EncodedBlock, Stacking

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
# The unit is a running scale: the slowly forgetting regression's at middle rate, at least this.
UNIT_INDEX = Stacking.components - 2
MIN_UNIT_LSB = 0.3
# Larger differences of an expert from the stacked mean, in units, carry no further information.
MAX_DIFFERENCE = 8.0


@dataclass(frozen=True, kw_only=True)
class Features:
    """Features of a passage; all arrays are float32, channels first.

    ``unit``: (channels, frames) LSB, the unit of the other streams.
    ``residual``: (channels, frames), (x - stacked mean) / unit, known after the sample.
    ``side``: (channels, frames, side), known before the sample.
    ``base``: (channels, frames, 3 M): the stacking's log weights, locations relative to its
    mean and log scales, in units.
    ``summary``: (channels, frames / step_frames, summary), known after its step; whole steps only.
    """

    unit: F32
    residual: F32
    side: F32
    base: F32
    summary: F32


def side_size(experts: int) -> int:
    """Return the number of side features per sample."""
    return experts + 4


def summary_size(experts: int, step_frames: int) -> int:
    """Return the number of summary features per step: both channels' and the channel's number."""
    return 2 * (2 * experts + step_frames + 2) + 2


def extract(encoded: EncodedBlock, step_frames: int) -> Features:
    """Return the features of a block that begins at the start of a step."""
    x = encoded.samples.astype(np.float64).T  # (channels, frames)
    mean = encoded.mean.T
    unit = np.maximum(encoded.running_scales[..., UNIT_INDEX].T, MIN_UNIT_LSB)
    residual = (x - mean) / unit
    # (frames, channels, experts) -> (channels, frames, experts)
    per_unit = (1.0 / unit).astype(np.float32)[..., None]
    difference = (encoded.means.swapaxes(0, 1) - mean[..., None]).astype(np.float32)
    difference *= per_unit
    np.clip(difference, -MAX_DIFFERENCE, MAX_DIFFERENCE, out=difference)
    # Only the last frame of each step enters the summary.
    last = slice(step_frames - 1, len(encoded.samples) // step_frames * step_frames, step_frames)
    ratio = (encoded.expert_error.swapaxes(0, 1)[:, last] + 0.1) / (unit[:, last, None] + 0.1)
    expert_error = np.log2(ratio.astype(np.float32))
    channels = len(x)
    number = np.broadcast_to(np.arange(channels, dtype=np.float64)[:, None], x.shape)
    other = np.zeros_like(x)
    if channels == 2:
        # Causality permits the second channel to use the first channel's current sample.
        other[1] = np.arcsinh(residual[0])
    stereo = np.full_like(x, channels - 1.0)
    columns = np.stack([other, number, stereo, np.log2(unit) / 8.0], axis=-1)
    side = np.concatenate([difference, columns], axis=-1)
    scales = np.log(encoded.scales.swapaxes(0, 1) / unit[..., None])
    locations = (encoded.locations.swapaxes(0, 1) - mean[..., None]) / unit[..., None]
    base = np.concatenate([np.log(encoded.weights.swapaxes(0, 1)), locations, scales], axis=-1)
    return Features(
        unit=unit.astype(np.float32),
        residual=residual.astype(np.float32),
        side=side.astype(np.float32),
        base=base.astype(np.float32),
        summary=_summaries(x, residual, difference, expert_error, unit, step_frames),
    )


def _summaries(
    x: F64, residual: F64, difference: F32, expert_error: F32, unit: F64, step_frames: int
) -> F32:
    """Return the summary features of each whole step, the channel's own before the other's."""
    channels, frames = x.shape
    count = frames // step_frames
    stop = count * step_frames
    r = np.arcsinh(residual[:, :stop]).reshape(channels, count, step_frames)
    d = difference[:, :stop].reshape(channels, count, step_frames, -1)
    own = np.concatenate(
        [
            np.mean(r[..., None] * d, axis=2),
            expert_error,
            r,
            np.log2(unit[:, :stop].reshape(r.shape)[..., -1:]) / 8.0,
            np.log2(1.0 + np.mean(np.abs(x[:, :stop].reshape(r.shape)), -1, keepdims=True)) / 8.0,
        ],
        axis=-1,
    )
    other = own[::-1] if channels == 2 else np.zeros_like(own)
    tags = np.empty((channels, count, 2))
    tags[..., 0] = np.arange(channels)[:, None]
    tags[..., 1] = channels - 1.0
    return np.concatenate([own, other, tags], axis=-1).astype(np.float32)

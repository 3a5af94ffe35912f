"""The network's inputs: what is known before each sample, in units of the running error.

Differences are divided by a running scale, so that loud and quiet songs look alike; ``asinh``
limits rare large values. There are three streams: per step of ``step_frames`` frames (for the
LSTM), per sample (for the head), and the stacking's mixture, which the network's output corrects.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from songcast.forecasting.feature_kernels import extract
from songcast.forecasting.stacking import EncodedBlock

F32 = NDArray[np.float32]
Real = NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True)
class Features:
    """Features of a block; all arrays are float32, channels first.

    ``unit``: (channels, frames) LSB, the unit of the other streams.
    ``squashed``: (channels, frames), asinh of (x - stacked mean) / unit, known after the sample.
    ``side``: (channels, frames, side), known before the sample.
    ``summary``: (channels, steps, summary), of each step that ends in the block.
    """

    unit: F32
    squashed: F32
    side: F32
    summary: F32


def side_size(experts: int) -> int:
    """Return the number of side features per sample."""
    return experts + 4


def own_size(experts: int, step_frames: int) -> int:
    """Return the number of summary features per step of one channel."""
    return 2 * experts + step_frames + 2


def summary_size(experts: int, step_frames: int) -> int:
    """Return the number of summary features per step: both channels' and the channel's number."""
    return 2 * own_size(experts, step_frames) + 2


class FeatureExtractor:
    """Extracts the features of one song, in blocks of any size.

    A side row has each expert's difference from the stacked mean, the first channel's present
    residual (for the second channel), the number of the channel, whether the song is stereo, and
    the logarithm of the unit. A summary row has, for the channel and then for the other one, each
    expert's correlation with the residual and the logarithm of its error, the residuals of the
    step and the logarithms of the unit and the level; then the number of the channel and whether
    the song is stereo.
    """

    def __init__(self, channels: int, experts: int, step_frames: int) -> None:
        self._step_frames = step_frames
        self._position = 0
        self._sums = np.zeros((channels, experts + 1))
        self._recent = np.zeros((channels, step_frames), np.float32)

    def extract(self, encoded: EncodedBlock) -> Features:
        """Return the features of the next block."""
        frames, channels, experts = encoded.means.shape
        steps = (self._position + frames) // self._step_frames
        unit, squashed = np.empty((2, channels, frames), np.float32)
        side = np.empty((channels, frames, side_size(experts)), np.float32)
        width = summary_size(experts, self._step_frames)
        summary = np.empty((channels, steps, width), np.float32)
        means = np.ascontiguousarray(encoded.means.swapaxes(0, 1))
        x = encoded.samples.T.astype(np.float64)
        inputs = x, encoded.mean, encoded.unit, means, encoded.expert_error
        state = self._position, self._sums, self._recent
        extract(*inputs, *state, unit, squashed, side, summary)
        self._position = (self._position + frames) % self._step_frames
        return Features(unit=unit, squashed=squashed, side=side, summary=summary)


def fill_side(
    side: Real, differences: Real, first: Real | float, lsb: Real, channel: int, channels: int
) -> None:
    """Write side rows (frames, side), as ``FeatureExtractor`` does, from what they follow from.

    ``differences``: (frames, experts). ``first``: the first channel's residual after asinh, for the
    second one. ``lsb``: (frames,), in units.
    """
    experts = differences.shape[1]
    side[:, :experts] = differences
    side[:, experts] = first
    side[:, experts + 1 :] = channel, channels - 1, 0.0
    side[:, experts + 3] = np.log2(lsb) / -8.0

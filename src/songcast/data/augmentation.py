"""Augmentation: copies of songs at other speeds, levels and stereo images, to train on.

They reduce overfitting to a handful of songs: a copy has another spectrum, another noise floor
and other best experts than the song.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from songcast.audio.conversion import resampled
from songcast.audio.decoders import BLOCK_FRAMES


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """``speed``: 1 leaves it as it is. ``gain``: factor on the amplitude. ``spread``: share of
    the other channel that each channel gets, after the two are swapped.
    """

    name: str
    speed: float
    gain: float
    spread: float


AUGMENTATIONS = (
    Augmentation(name="slow", speed=0.76, gain=0.25, spread=0.0),
    Augmentation(name="fast", speed=1.34, gain=0.7, spread=0.3),
    Augmentation(name="quiet", speed=0.92, gain=0.06, spread=-0.2),
)


def augment(
    samples: NDArray[np.int16], sample_rate_hz: int, augmentation: Augmentation
) -> NDArray[np.int16]:
    """Return ``samples`` (frames, channels) int16 after ``augmentation``, at the same rate."""

    def loud() -> Iterator[NDArray[np.int16]]:
        for start in range(0, len(samples), BLOCK_FRAMES):
            mixed = samples[start : start + BLOCK_FRAMES].astype(np.float64)
            if samples.shape[1] == 2:
                mixed = mixed[:, ::-1] + augmentation.spread * mixed
            yield np.clip(np.rint(augmentation.gain * mixed), -32768, 32767).astype(np.int16)

    rate_hz = round(sample_rate_hz / augmentation.speed)
    blocks = resampled(loud(), sample_rate_hz, rate_hz, samples.shape[1])
    return np.concatenate(list(blocks))[: len(samples) * rate_hz // sample_rate_hz]

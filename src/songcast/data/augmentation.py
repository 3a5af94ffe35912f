"""Variants of songs to learn from: other speeds, levels and stereo images.

A network that hears a handful of songs learns their habits. Played faster or slower, louder
or quieter, with the channels mixed, a song has another spectrum, another noise floor and
other experts in the lead, while all that is true of music in general stays.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from songcast.audio.resampling import resampled


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """``speed``: of playing, 1 as it is; ``gain``: factor on the amplitude; ``spread``: how much
    of the other channel each channel gets, after the two have changed places.
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
    mixed = samples.astype(np.float64)
    if samples.shape[1] == 2:
        mixed = mixed[:, ::-1] + augmentation.spread * mixed
    loud = np.clip(np.rint(augmentation.gain * mixed), -32768, 32767).astype(np.int16)
    blocks = resampled(
        [loud], sample_rate_hz, _to_hz(sample_rate_hz, augmentation), samples.shape[1]
    )
    return np.concatenate(list(blocks))[
        : augmented_frames(len(samples), sample_rate_hz, augmentation)
    ]


def augmented_frames(frames: int, sample_rate_hz: int, augmentation: Augmentation) -> int:
    """How many frames ``augment`` makes of ``frames``."""
    return frames * _to_hz(sample_rate_hz, augmentation) // sample_rate_hz


def _to_hz(sample_rate_hz: int, augmentation: Augmentation) -> int:
    return round(sample_rate_hz / augmentation.speed)

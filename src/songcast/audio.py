"""Songs as int16 amplitudes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Song:
    """One song.

    ``samples``: (frames, channels) int16. ``sample_rate_hz``: frames per second.
    """

    samples: NDArray[np.int16]
    sample_rate_hz: int
    name: str

    @property
    def frames(self) -> int:
        """Number of time steps."""
        return int(self.samples.shape[0])

    @property
    def channels(self) -> int:
        """1 for mono, 2 for stereo."""
        return int(self.samples.shape[1])

    @property
    def seconds(self) -> float:
        """Duration."""
        return self.frames / self.sample_rate_hz

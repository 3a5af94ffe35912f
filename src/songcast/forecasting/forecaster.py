"""The one interface of all forecasters: from the past alone, a distribution for the next sample.

The law of causality: the distribution of channel c at frame t uses only frames < t, and
channels < c of frame t.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from songcast.audio.codecs import MAX_CHANNELS
from songcast.audio.songs import Song
from songcast.errors import AudioError
from songcast.forecasting.distribution import BLOCK_FRAMES, LogisticMixture
from songcast.forecasting.metrics import bits_per_sample, prediction_gain_db
from songcast.forecasting.prefetch import prefetch


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """A teacher-forced forecast of a whole song.

    ``samples``: (frames, channels) int16, the song. ``mean``: (frames, channels) float64 in
    LSB. ``bits``: (frames, channels) float64, code length of each sample.
    """

    samples: NDArray[np.int16]
    mean: NDArray[np.float64]
    bits: NDArray[np.float64]

    @property
    def prediction_gain_db(self) -> NDArray[np.float64]:
        """10 log10(sum x^2 / sum e^2) per channel, (channels,) float64, dB."""
        return prediction_gain_db(self.samples, self.mean)

    @property
    def bits_per_sample(self) -> float:
        """Mean code length over all samples of all channels."""
        return bits_per_sample(self.bits)

    def passage(self, start: int, stop: int) -> "Forecast":
        """The frames [start, stop): measured alone, though the past before them was heard."""
        return Forecast(
            samples=self.samples[start:stop],
            mean=self.mean[start:stop],
            bits=self.bits[start:stop],
        )


class ForecastSession(ABC):
    """A forecaster listening to one song. State is carried from call to call."""

    @abstractmethod
    def forecast_block(self, samples: NDArray[np.int16]) -> LogisticMixture:
        """Return the distributions of ``samples`` (frames, channels), then learn from them.

        Hearing a song in blocks of any size gives, bit for bit, what hearing it whole gives.
        """

    def encode(self, samples: NDArray[np.int16]) -> Any:
        """Do the first half of ``forecast_block``; it may run one block before ``decode``."""
        return samples

    def decode(self, encoded: Any) -> LogisticMixture:
        """Do the second half of ``forecast_block``, block by block in the same order."""
        return self.forecast_block(encoded)


class Forecaster(ABC):
    """Gives a distribution for every next sample of a song of one or two channels."""

    name: str
    # How many past frames can matter; None: all of them.
    warm_up_frames: int | None = None

    @abstractmethod
    def session(self, channels: int, sample_rate_hz: int) -> ForecastSession:
        """Start listening to a song from its first frame."""

    def forecast(self, song: Song) -> Forecast:
        """Forecast every sample of ``song``, teacher-forced.

        Memory beyond the result does not grow with the song. Raises ``AudioError`` for more
        than two channels.
        """
        check_channels(song)
        session = self.session(song.channels, song.sample_rate_hz)
        mean = np.empty(song.samples.shape, np.float64)
        bits = np.empty(song.samples.shape, np.float64)
        starts = range(0, song.frames, BLOCK_FRAMES)
        blocks = (np.ascontiguousarray(song.samples[s : s + BLOCK_FRAMES]) for s in starts)
        encoded_blocks = prefetch(session.encode, blocks)
        for start, (block, encoded) in zip(starts, encoded_blocks, strict=True):
            mixture = session.decode(encoded)
            mean[start : start + BLOCK_FRAMES] = mixture.mean
            bits[start : start + BLOCK_FRAMES] = mixture.bits(block)
        return Forecast(samples=song.samples, mean=mean, bits=bits)


def check_channels(song: Song) -> None:
    """Raise ``AudioError`` unless ``song`` has one or two channels."""
    if not 1 <= song.channels <= MAX_CHANNELS:
        raise AudioError(
            f"{song.name}: {song.channels} channels; songcast forecasts mono and stereo: "
            "mix the song down to two channels first"
        )

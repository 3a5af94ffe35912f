"""The interface of all forecasters, and the loop that runs them over a song.

A forecaster gives a distribution for the next sample from the past alone. Causality: the
distribution of channel c at frame t depends only on frames < t, and on channels < c of frame t.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from songcast.audio.formats import check_channels
from songcast.audio.songs import Song
from songcast.data.corpus import drop_pages
from songcast.forecasting.distribution import BLOCK_FRAMES, Distribution, to_int16
from songcast.forecasting.metrics import bits_per_sample, prediction_gain_db

Samples = NDArray[np.int16]
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """A teacher-forced forecast of a song, or of a passage of it.

    ``samples``: (frames, channels) int16, the song. ``mean``: (frames, channels) float64 in
    LSB. ``bits``: (frames, channels) float64, the code length of each sample.
    """

    samples: Samples
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

    @property
    def predicted(self) -> Samples:
        """The predicted song, (frames, channels) int16: the mean, rounded and clipped."""
        return to_int16(self.mean)

    def passage(self, start: int, stop: int) -> "Forecast":
        """Return the forecast of the frames [start, stop)."""
        return Forecast(
            samples=self.samples[start:stop],
            mean=self.mean[start:stop],
            bits=self.bits[start:stop],
        )


class ForecastSession(ABC):
    """A forecaster at work on one song. The state is carried from block to block."""

    @abstractmethod
    def forecast_block(self, samples: Samples) -> Distribution:
        """Return the distributions of ``samples`` (frames, channels), then adapt to them.

        Processing a song in blocks of any size gives, bit for bit, the result of processing it
        whole.
        """

    def encode(self, samples: Samples) -> Any:
        """Do the first half of ``forecast_block``; it may run one block before ``decode``."""
        return samples

    def decode(self, encoded: Any) -> Distribution:
        """Do the second half of ``forecast_block``, block by block in the same order."""
        return self.forecast_block(encoded)


def prefetch(
    work: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[tuple[Item, Result]]:
    """Yield each item with ``work(item)``, in order, while a thread works on the next item.

    An exception of ``work`` is raised here, and no later item is started. Closing the iterator
    waits for the thread.
    """
    pending: list[tuple[Item, Future[Result]]] = []
    with ThreadPoolExecutor(1) as pool:
        for item in items:
            done = [(earlier, future.result()) for earlier, future in pending]
            pending = [(item, pool.submit(work, item))]
            yield from done
        yield from ((last, future.result()) for last, future in pending)


def forecast_stream(
    sessions: Sequence[ForecastSession],
    parts: Iterable[Samples],
    encode: Callable[[Samples], Any] | None = None,
) -> Generator[tuple[Samples, list[Distribution]]]:
    """Forecast a song that arrives in ``parts`` (frames, channels) with new ``sessions``.

    Yields blocks of up to ``BLOCK_FRAMES`` frames with one distribution per session, in constant
    memory. All sessions decode the result of ``encode``, by default the first session's own; a
    thread encodes the next block meanwhile. The caller can show progress after each block, and
    cancel by closing the generator.
    """

    def blocks() -> Iterator[Samples]:
        for part in parts:
            for start in range(0, len(part), BLOCK_FRAMES):
                yield np.ascontiguousarray(part[start : start + BLOCK_FRAMES])
                drop_pages(part)

    for block, encoded in prefetch(encode or sessions[0].encode, blocks()):
        yield block, [session.decode(encoded) for session in sessions]


class Forecaster(ABC):
    """Gives a distribution for every next sample of a song of one or two channels."""

    name: str
    # The number of past frames that affect a forecast noticeably; None: the whole past.
    warm_up_frames: int | None = None

    @abstractmethod
    def session(self, channels: int) -> ForecastSession:
        """Return a session for one song, at its first frame."""

    def stream(
        self, parts: Iterable[Samples], channels: int
    ) -> Generator[tuple[Samples, Distribution]]:
        """Forecast a song that arrives in ``parts``: yields blocks and their distributions.

        See ``forecast_stream``. ``metrics.RunningMeasures`` measures the result.
        """
        session = self.session(channels)
        for block, (distribution,) in forecast_stream([session], parts):
            yield block, distribution

    def forecast(self, song: Song, on_block: Callable[[int], None] | None = None) -> Forecast:
        """Forecast every sample of ``song``, teacher-forced.

        ``on_block`` is called with the number of frames after each block; an exception that it
        raises cancels the forecast. Raises ``AudioError`` for more than two channels.
        """
        check_channels(song.name, song.channels)
        mean, bits = np.empty((2, *song.samples.shape))
        at = 0
        for block, distribution in self.stream([song.samples], song.channels):
            rows = slice(at, at + len(block))
            mean[rows], bits[rows] = distribution.mean, distribution.bits(block)
            at += len(block)
            if on_block:
                on_block(len(block))
        return Forecast(samples=song.samples, mean=mean, bits=bits)

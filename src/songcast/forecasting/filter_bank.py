"""The filter bank: adaptive linear predictors (experts) of one song.

A chain is a sequence of adaptive stages. Each stage predicts the residual of the stages before
it: least squares over both channels, or a normalised LMS filter over the channel's own past. The
sum of the predictions so far is an expert wherever the settings mark the stage as one. The second
channel comes after the first one: its least squares use the first channel's current sample.
"""

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from songcast.distributed.engine import free_cores
from songcast.forecasting.distribution_kernels import HIGHEST, LOWEST
from songcast.forecasting.filter_bank_kernels import BLOCK, least_squares, normalised_lms
from songcast.forecasting.filter_bank_settings import (
    Chain,
    FilterBankSettings,
    LeastSquares,
    Lms,
    Stage,
)
from songcast.forecasting.linear_kernels import RANK
from songcast.forecasting.simd import LANES, padded

F32 = NDArray[np.float32]


class FilterBank:
    """The experts of one song.

    Chains run in parallel threads where there are free cores; the result is the same, bit for
    bit. Chains that begin with the same stage share it.
    """

    def __init__(
        self,
        channels: int,
        settings: FilterBankSettings | None = None,
        *,
        threads: int | None = None,
    ) -> None:
        self.settings = settings or FilterBankSettings()
        self.names = self.settings.names
        chains = self.settings.chains
        self._first = {chain[0]: StageFilters(chain[0], channels) for chain in chains}
        self._rest = [[StageFilters(stage, channels) for stage in chain[1:]] for chain in chains]
        self._pool = ThreadPoolExecutor(min(threads or free_cores(), len(chains)))

    def predict(self, samples: NDArray[np.int16]) -> F32:
        """Predict each sample from the past alone, then adapt to it.

        ``samples``: (frames, channels) int16. Returns (frames, channels, experts) float32, each
        expert's mean in LSB. The state is carried from call to call: the result does not depend
        on the size of the blocks, bit for bit.
        """
        x = np.ascontiguousarray(samples.T, np.float32)
        # First stages enter the queue before the chains that wait for them.
        first = {s: self._pool.submit(f.predict, x) for s, f in self._first.items()}
        tasks = [
            self._pool.submit(_predict_chain, x, chain, first[chain[0]], rest)
            for chain, rest in zip(self.settings.chains, self._rest, strict=True)
        ]
        means = [mean for task in tasks for mean in task.result()]
        return np.stack(means, axis=-1).swapaxes(0, 1)


class StageFilters:
    """One stage for all channels of a song."""

    def __init__(self, stage: Stage, channels: int) -> None:
        self._filters = [
            LeastSquaresFilter(stage, channel, channels)
            if isinstance(stage, LeastSquares)
            else LmsFilter(stage)
            for channel in range(channels)
        ]

    def predict(self, signals: F32) -> F32:
        """Predict ``signals`` (channels, frames) float32 from the past; return the same shape."""
        return np.stack([f.predict(signals, channel) for channel, f in enumerate(self._filters)])


class LmsFilter:
    """The state of a normalised LMS filter for one channel."""

    def __init__(self, settings: Lms) -> None:
        past = settings.taps + BLOCK
        self._step = settings.step
        self._weights = np.zeros(settings.taps, np.float32)
        # Room for some blocks, so that the past is rarely moved.
        self._line = np.zeros(past + 1024, np.float32)
        self._block = np.zeros(12 * BLOCK)
        self._at = np.array([past, 0])

    def predict(self, signals: F32, channel: int) -> F32:
        """Predict ``signals[channel]`` (frames,) from its own past."""
        out = np.empty(signals.shape[1], np.float32)
        state = self._weights, self._line, self._block, self._at
        normalised_lms(signals[channel], self._step, *state, out)
        return out


class LeastSquaresFilter:
    """The state of exponentially weighted least squares for one channel."""

    def __init__(self, settings: LeastSquares, channel: int, channels: int) -> None:
        own_taps, other_taps = settings.own_taps, settings.other_taps if channels > 1 else 0
        # Unweighted, zeros follow the regressors of each channel, so that whole vectors of any
        # edge stay within its channel.
        gap = 0 if settings.weighted else LANES - 1
        side = padded(own_taps + gap) if gap else own_taps
        size, taps = padded(side + other_taps + gap), padded(own_taps + other_taps)
        counts = [own_taps, other_taps, side, channel, settings.solve_every, settings.sweeps]
        self._counts = np.array([*counts, settings.weighted, 0], np.int64)
        self._forget = settings.forgetting, settings.ridge
        self._past = max(own_taps, other_taps)
        self._history = np.zeros((channels, self._past))
        unused = np.zeros((0, 0))
        self._state = (
            np.zeros((5, size)),
            unused if settings.weighted else np.zeros((own_taps + other_taps, size)),
            np.zeros((RANK + 1, max(size, RANK))) if settings.weighted else unused,
            np.zeros((size, size)) if settings.weighted else unused,
            np.zeros((taps + 2, taps)),
            np.zeros(2),
        )

    def predict(self, signals: F32, channel: int) -> F32:
        """Predict ``signals[channel]`` (frames,) from both channels."""
        both = np.concatenate([self._history, signals], axis=1)
        self._history = both[:, both.shape[1] - self._past :]
        out = np.empty(signals.shape[1], np.float32)
        own, other = both[channel], both[len(signals) - 1 - channel]
        least_squares(own, other, self._past, self._counts, *self._forget, *self._state, out)
        return out


def _predict_chain(x: F32, chain: Chain, first: Future[F32], rest: list[StageFilters]) -> list[F32]:
    """Return the means of the experts of a chain, each of the shape of ``x`` (channels, frames)."""
    residual, means = x, []
    # The sum of the predictions, not x minus the residual, which rounds at the level of x.
    mean = np.zeros(x.shape, np.float64)
    for stage, filters in zip(chain, [None, *rest], strict=True):
        predicted = filters.predict(residual) if filters else first.result()
        residual = residual - predicted
        mean += predicted
        if stage.expert:
            means.append(np.clip(mean, LOWEST, HIGHEST).astype(np.float32))
    return means

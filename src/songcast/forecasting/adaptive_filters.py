"""One adaptive filter hearing one channel: its settings, its state, its compiled loop."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from songcast.forecasting.filter_bank_kernels import least_squares, normalised_lms
from songcast.forecasting.linear_kernels import RANK

if TYPE_CHECKING:
    from songcast.forecasting.filter_bank import LeastSquares, Lms

F32 = NDArray[np.float32]


class LmsFilter:
    """Normalised LMS."""

    def __init__(self, settings: "Lms") -> None:
        self._step = settings.step
        self._weights = np.zeros(settings.taps, np.float32)
        self._history = np.zeros(settings.taps + 1, np.float32)
        self._memory = np.zeros(2)

    def predict(self, signals: F32, channel: int) -> F32:
        """Predict ``signals[channel]`` (frames,) from its own past."""
        past = len(self._history)
        signal = np.concatenate([self._history, signals[channel]])
        self._history = signal[len(signal) - past :]
        out = np.empty(signals.shape[1], np.float32)
        normalised_lms(signal, past, self._step, self._weights, self._memory, out)
        return out


class LeastSquaresFilter:
    """Exponentially weighted least squares."""

    def __init__(self, settings: "LeastSquares", channel: int, channels: int) -> None:
        self._settings = settings
        other_taps = settings.other_taps if channels > 1 else 0
        n = settings.own_taps + other_taps
        every = settings.solve_every
        counts = [settings.own_taps, other_taps, channel, every, 0, settings.sweeps]
        self._counts = np.array(counts, np.int64)
        self._past = max(settings.own_taps, other_taps)
        self._history = np.zeros((channels, self._past))
        self._matrix = np.zeros((2, n, n))
        self._vectors = np.zeros((5, n))
        self._edges = np.zeros((every, 2, n))
        self._rows = np.zeros((RANK + 1, max(n, RANK)))
        self._recent = np.zeros(2)

    def predict(self, signals: F32, channel: int) -> F32:
        """Predict ``signals[channel]`` (frames,) from both channels."""
        signal = np.concatenate([self._history, signals], axis=1)
        self._history = signal[:, signal.shape[1] - self._past :]
        out = np.empty(signals.shape[1], np.float32)
        least_squares(
            signal[channel],
            signal[len(signals) - 1 - channel],
            self._past,
            self._counts,
            self._settings.forgetting,
            self._settings.ridge,
            self._settings.weighting,
            self._matrix,
            self._vectors,
            self._edges,
            self._rows,
            self._recent,
            out,
        )
        return out

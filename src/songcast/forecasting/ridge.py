"""Ridge: one frozen linear predictor for all songs, fitted on the training passages.

The normal equations are summed block by block, so that the (frames, look_back) design matrix is
never in memory; scikit-learn's ``Ridge`` then solves a square system with the same solution.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from songcast.bundle import read_arrays, read_manifest, write_bundle
from songcast.data.corpus import drop_pages
from songcast.forecasting.compiled import compiled
from songcast.forecasting.distribution import LogisticMixture
from songcast.forecasting.distribution_kernels import HIGHEST, LOWEST
from songcast.forecasting.forecaster import Forecaster, ForecastSession
from songcast.forecasting.stacking import Stacking

Floats = NDArray[np.float64]
Taps = dict[int, Floats]
FULL_SCALE = 32768.0
BLOCK_FRAMES = 16384


class Ridge(Forecaster):
    """Predicts each channel from the last ``look_back`` frames of all channels.

    ``stereo``: (2, 2, look_back) float64; tap [target, source, k] is the weight of the sample k +
    1 frames before. ``mono``: (1, 1, look_back), for songs of one channel.
    """

    name = "ridge"

    def __init__(self, stereo: Floats, mono: Floats) -> None:
        self.taps: Taps = {1: mono, 2: stereo}

    @property
    def look_back(self) -> int:
        """The number of past frames that affect a prediction."""
        return int(self.taps[1].shape[-1])

    def session(self, channels: int) -> ForecastSession:
        """Return a session for one song; the taps count frames at any sample rate."""
        return _RidgeSession(self.taps[channels])

    @classmethod
    def fit(cls, passages: Iterable[NDArray[np.int16]], look_back: int, alpha: float) -> "Ridge":
        """Fit on (frames, channels) int16 passages of one or two channels.

        Stereo taps are fitted on stereo passages, mono taps on every single channel.
        ``alpha`` is the ridge penalty for samples scaled to [-1, 1).
        """
        stereo = _NormalEquations(2, look_back)
        mono = _NormalEquations(1, look_back)
        for passage in passages:
            if passage.shape[1] == 2:
                stereo.add(passage)
            for c in range(passage.shape[1]):
                mono.add(passage[:, c : c + 1])
        mono_taps = mono.solve(alpha)
        if stereo.rows:
            return cls(stereo.solve(alpha), mono_taps)
        both = np.zeros((2, 2, look_back))
        both[0, 0] = both[1, 1] = mono_taps[0, 0]
        return cls(both, mono_taps)

    def save(self, folder: Path, details: dict[str, Any]) -> None:
        """Write the bundle; ``details`` are added to its bundle.json."""
        arrays = {"stereo": self.taps[2], "mono": self.taps[1]}
        write_bundle(
            folder, kind=self.name, arrays=arrays, details={**details, "look_back": self.look_back}
        )

    @classmethod
    def load(cls, folder: Path) -> "Ridge":
        """Read a bundle written by ``save``. Raises ``BundleError``."""
        read_manifest(folder)
        arrays = read_arrays(folder)
        return cls(arrays["stereo"], arrays["mono"])


class LinearPredictor:
    """A frozen linear filter with (target, source, look_back) taps, at work on one song."""

    def __init__(self, taps: Floats) -> None:
        self._taps = np.ascontiguousarray(taps[..., ::-1])
        channels, _, look_back = taps.shape
        self._past = np.zeros((channels, look_back))

    def predict(self, samples: NDArray[np.int16]) -> Floats:
        """Predict each sample from the past: return (frames, channels) float64 in LSB."""
        signal = np.concatenate([self._past, samples.T], axis=1)
        self._past = signal[:, len(samples) :]
        means = np.empty((len(self._taps), len(samples)))
        _filter(signal, self._taps, means)
        return np.clip(means.T, LOWEST, HIGHEST)


@compiled
def _filter(signal: Floats, taps: Floats, means: Floats) -> None:
    """Apply ``taps`` (target, source, look_back), oldest first, to the samples before each one.

    ``signal`` (channels, look_back + frames), ``means`` (channels, frames).
    """
    look_back = taps.shape[2]
    for target in range(means.shape[0]):
        for t in range(means.shape[1]):
            mean = 0.0
            for source in range(signal.shape[0]):
                past, weights = signal[source, t : t + look_back], taps[target, source]
                for i in range(look_back):
                    mean += weights[i] * past[i]
            means[target, t] = mean


class _RidgeSession(ForecastSession):
    def __init__(self, taps: Floats) -> None:
        self._predictor = LinearPredictor(taps)
        self._stacking = Stacking(taps.shape[0], 1)

    def forecast_block(self, samples: NDArray[np.int16]) -> LogisticMixture:
        means = self._predictor.predict(samples).astype(np.float32)
        return self._stacking.combine(samples, means[..., None]).mixture


class _NormalEquations:
    """The sums X'X and X'y of the lagged design matrix, updated block by block."""

    def __init__(self, channels: int, look_back: int) -> None:
        features = channels * look_back
        self._channels, self._look_back = channels, look_back
        self._gram = np.zeros((features, features))
        self._moment = np.zeros((features, channels))
        self.rows = 0

    def add(self, passage: NDArray[np.int16]) -> None:
        for start in range(0, len(passage) - self._look_back, BLOCK_FRAMES):
            block = passage[start : start + BLOCK_FRAMES + self._look_back] / FULL_SCALE
            # windows: (rows, channels, look_back), oldest first -> newest first
            windows = sliding_window_view(block[:-1], self._look_back, axis=0)[..., ::-1]
            x = windows.reshape(len(windows), -1)
            y = block[self._look_back :]
            self._gram += x.T @ x
            self._moment += x.T @ y
            self.rows += len(x)
            drop_pages(passage)

    def solve(self, alpha: float) -> Floats:
        """Return the taps (target, source, look_back)."""
        from sklearn.linear_model import Ridge as RidgeRegression

        # A small matrix with the same X'X and X'y has the same ridge solution.
        values, vectors = np.linalg.eigh(self._gram)
        root = np.sqrt(np.maximum(values, 1e-12 * max(values[-1], 1e-12)))
        x = root[:, None] * vectors.T
        y = (vectors.T @ self._moment) / root[:, None]
        fitted = RidgeRegression(alpha=alpha, fit_intercept=False).fit(x, y)
        taps = fitted.coef_.reshape(self._channels, self._channels, self._look_back)
        return np.asarray(taps, np.float64)

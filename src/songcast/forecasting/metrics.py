"""Measures of a forecast: of whole arrays, and as running sums over blocks."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
MAX_LAG = 64
LOUD_LSB = 29491


def prediction_gain_db(samples: NDArray[np.int16], mean: Floats) -> Floats:
    """Prediction gain per channel: 10 log10(sum x^2 / sum e^2), e = x - mean, in dB.

    ``samples`` (frames, channels) int16, ``mean`` (frames, channels) in LSB; returns
    (channels,) float64. A perfect prediction has gain +inf, but silence predicted as silence
    has gain 0.

    >>> prediction_gain_db(np.array([[10], [-10]], np.int16), np.array([[9.0], [-9.0]]))
    array([20.])
    """
    x = samples.astype(np.float64)
    return _gain_db(np.sum(x**2, axis=0), np.sum((x - mean) ** 2, axis=0))


def _gain_db(signal: Floats, error: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = 10.0 * (np.log10(signal) - np.log10(error))
    return np.where((signal == 0) & (error == 0), 0.0, gain)


def bits_per_sample(bits: Floats) -> float:
    """Return the mean code length in bits over (frames, channels); 0 for an empty song."""
    return float(np.mean(bits)) if bits.size else 0.0


class RunningMeasures:
    """Measures of a forecast that is given block by block, in constant memory.

    They equal those of the whole arrays up to rounding.
    """

    def __init__(self, channels: int, max_lag: int = MAX_LAG) -> None:
        self.frames = self.clipped_samples = 0
        self._max_lag = max_lag
        self._signal, self._error, self._sum = np.zeros((3, channels))
        self._bits = 0.0
        # Per channel and lag: the sum of x[t] y[t + lag], and of y[t + lag], over all t that have
        # max_lag frames on both sides.
        self._products, self._shifted = np.zeros((2, channels, 2 * max_lag + 1))
        self._reference = np.zeros(channels)  # taken off x and y: a constant channel becomes zero
        self._last: tuple[Floats, Floats] = (np.zeros((0, channels)), np.zeros((0, channels)))

    def add(self, samples: NDArray[np.int16], mean: Floats, bits: Floats) -> None:
        """Add the next block: (frames, channels) each, as in ``Forecast``.

        ``clipped_samples`` counts the predictions at the edge of the int16 range where the song is
        not within a tenth of it: forecasts of loud music may reach the edge.
        """
        if not len(samples):
            return
        clipped = (mean <= -32768) & (samples > -LOUD_LSB) | (mean >= 32767) & (samples < LOUD_LSB)
        self.clipped_samples += int(np.count_nonzero(clipped))
        x = samples.astype(np.float64)
        self._signal += np.sum(x**2, axis=0)
        self._error += np.sum((x - mean) ** 2, axis=0)
        self._bits += float(np.sum(bits))
        if not self.frames:
            self._reference = x[0].copy()
        self.frames += len(x)
        self._sum += np.sum(x - self._reference, axis=0)
        x = np.concatenate([self._last[0], x - self._reference])
        y = np.concatenate([self._last[1], mean - self._reference])
        core = x[self._max_lag : len(x) - self._max_lag]
        if len(core):
            ones = np.ones(len(core))
            for c in range(x.shape[1]):
                self._products[c] += np.correlate(y[:, c], core[:, c], "valid")
                self._shifted[c] += np.correlate(y[:, c], ones, "valid")
        self._last = (x[-2 * self._max_lag :].copy(), y[-2 * self._max_lag :].copy())

    @property
    def prediction_gain_db(self) -> Floats:
        """As ``prediction_gain_db``, (channels,)."""
        return _gain_db(self._signal, self._error)

    @property
    def bits_per_sample(self) -> float:
        """As ``bits_per_sample``."""
        return self._bits / (self.frames * len(self._sum)) if self.frames else 0.0

    @property
    def lag_samples(self) -> NDArray[np.int64]:
        """The shift at which song and forecast correlate most: (channels,) int64.

        It is 0 for an honest predictor and 1 for one that repeats the last sample: positive lags
        mean that the forecast is late. The range is [-max_lag, max_lag]; the result is 0 if a
        channel is constant or not longer than 2 ``max_lag``.
        """
        mean = self._sum / max(self.frames, 1)
        scores = self._products - mean[:, None] * self._shifted
        lags = np.arange(-self._max_lag, self._max_lag + 1)
        nearest = np.argsort(np.abs(lags), kind="stable")  # on a tie, the lag nearest to 0
        return np.asarray(lags[nearest[np.argmax(scores[:, nearest], axis=1)]])

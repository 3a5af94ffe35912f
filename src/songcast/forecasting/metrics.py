"""Measures of a forecast: pure functions of arrays."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def prediction_gain_db(samples: NDArray[np.int16], mean: Floats) -> Floats:
    """Prediction gain per channel: 10 log10(sum x^2 / sum e^2), e = x - mean, in dB.

    ``samples`` (frames, channels) int16, ``mean`` (frames, channels) in LSB; returns
    (channels,) float64. A perfect prediction has gain +inf, but silence predicted as silence
    has gain 0.

    >>> prediction_gain_db(np.array([[10], [-10]], np.int16), np.array([[9.0], [-9.0]]))
    array([20.])
    """
    x = samples.astype(np.float64)
    signal = np.sum(x**2, axis=0)
    error = np.sum((x - mean) ** 2, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = 10.0 * (np.log10(signal) - np.log10(error))
    return np.where((signal == 0) & (error == 0), 0.0, gain)


def bits_per_sample(bits: Floats) -> float:
    """Return the mean code length in bits over (frames, channels); 0 for an empty song."""
    return float(np.mean(bits)) if bits.size else 0.0


def lag_samples(samples: NDArray[np.int16], mean: Floats, max_lag: int = 64) -> NDArray[np.int64]:
    """Return the shift at which song and forecast correlate most: (channels,) int64.

    It is 0 for an honest predictor and 1 for one that repeats the last sample: positive lags mean
    that the forecast is late. The range is [-max_lag, max_lag]; the result is 0 if a channel is
    constant or not longer than 2 ``max_lag``.

    >>> x = np.random.default_rng(0).integers(-99, 99, (500, 1)).astype(np.int16)
    >>> lag_samples(x, np.roll(x, 3, axis=0).astype(float))
    array([3])
    """
    lags = [_channel_lag(samples[:, c], mean[:, c], max_lag) for c in range(samples.shape[1])]
    return np.array(lags, dtype=np.int64)


def _channel_lag(x: NDArray[np.int16], y: Floats, max_lag: int) -> int:
    # Within this core, every lag sums the same number of products.
    core = slice(max_lag, len(x) - max_lag)
    if core.stop <= core.start:
        return 0
    a = x - np.mean(x)  # the mean of y would subtract the same from every score
    shifts = sorted(range(-max_lag, max_lag + 1), key=abs)  # on a tie the lag nearest to 0
    scores = [float(a[core] @ y[core.start + s : core.stop + s]) for s in shifts]
    return shifts[int(np.argmax(scores))]

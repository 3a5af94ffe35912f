"""Normalised lattice filters of reflection coefficients, all |k| < 1.

In the normalised form every stage is a rotation. The energy of the state never grows, however
quickly the coefficients change, so the filter is stable on its output. White noise of unit variance
gives an output of unit level; ``level`` scales it.

Sources: Burg, "Maximum entropy spectral analysis", 1975; Gray & Markel, "A normalized digital
filter structure", IEEE TASSP 1975; Haykin, "Adaptive Filter Theory", chapter 3.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from songcast.forecasting.compiled import compiled

F64 = NDArray[np.float64]
# Limit of |k|: keeps resonances away from the unit circle.
MAX_REFLECTION = 0.9999
# Added to the power at delay zero, as a share of it: 90 dB below the signal.
WHITE_SHARE = 1e-9
# Lowest level in LSB, also for digital silence.
MIN_LEVEL_LSB = 0.02
# Fitting stops when the remaining share of the power is below this.
MIN_RESIDUAL_SHARE = 1e-10
# Coefficients are interpolated in this many steps per block.
STEPS = 16
# Rows that are filtered at once.
LANES = 2


@dataclass(frozen=True, kw_only=True)
class Lattice:
    """Filters of all rows: ``reflection`` (rows, order) float64, ``level`` (rows,) RMS in LSB."""

    reflection: F64
    level: F64

    @classmethod
    def burg(cls, signal: F64, order: int) -> "Lattice":
        """Fit by Burg's method: high resolution on a short ``signal`` (rows, frames) in LSB."""
        reflection = np.zeros((len(signal), order))
        level = _level(np.mean(signal**2, axis=1))
        for row, k, rms in zip(signal, reflection, level, strict=True):
            burg(row, rms**2 * WHITE_SHARE, k)
        return cls(reflection=reflection, level=level)

    @classmethod
    def windowed(cls, signal: F64, order: int) -> "Lattice":
        """Fit by the autocorrelation of a Hann-windowed ``signal`` (rows, frames) in LSB: fast."""
        window = np.hanning(signal.shape[1] + 2)[1:-1]
        size = 2 * max(signal.shape[1], order + 1)
        spectrum = np.abs(np.fft.rfft(signal * window, size)) ** 2
        correlation = np.fft.irfft(spectrum)[:, : order + 1] / np.sum(window**2)
        level = _level(correlation[:, 0])
        correlation[:, 0] = level**2 * (1.0 + WHITE_SHARE)
        reflection = np.zeros((len(signal), order))
        for r, k in zip(correlation, reflection, strict=True):
            levinson(r, k)
        return cls(reflection=reflection, level=level)

    def at_level(self, level: F64) -> "Lattice":
        """Return the same filters at another ``level`` (rows,) in LSB."""
        return Lattice(reflection=self.reflection, level=_level(level**2))


class LatticeState:
    """The state of the filters of ``rows`` rows, normalised: (2, order + 1) float64."""

    def __init__(self, rows: int, order: int) -> None:
        self._rows = rows
        self._backward = np.zeros((LANES, order + 1))

    def analyse(self, signal: F64, first: Lattice, last: Lattice) -> F64:
        """Return the excitation of ``signal`` (rows, frames); filters move from first to last."""
        return self._run(True, signal, first, last)

    def synthesise(self, excitation: F64, first: Lattice, last: Lattice) -> F64:
        """Return the signal in LSB of ``excitation`` (rows, frames): the inverse of ``analyse``."""
        return self._run(False, excitation, first, last)

    def _run(self, analysing: bool, x: F64, first: Lattice, last: Lattice) -> F64:
        lanes = [0, self._rows - 1]
        out = np.empty((LANES, x.shape[1]))
        run(
            analysing,
            np.ascontiguousarray(x[lanes], np.float64),
            first.reflection[lanes],
            last.reflection[lanes],
            np.log(np.stack([first.level, last.level])[:, lanes]),
            self._backward,
            out,
        )
        return out[: self._rows]


def _level(power: F64) -> F64:
    return np.asarray(np.sqrt(np.maximum(power, MIN_LEVEL_LSB**2)))


@compiled
def run(
    analysing: bool, x: F64, first: F64, last: F64, log_levels: F64, backward: F64, out: F64
) -> None:
    """Filter ``x`` (2, frames) into ``out``; carries ``backward`` (2, order + 1).

    A stage depends on the one before it, so two rows at once take little more time than one.
    """
    order = first.shape[1]
    k, c, i, ki = np.empty((4, order, 2))
    steps = STEPS if x.shape[1] >= STEPS else 1
    u, v = backward[0], backward[1]
    for step in range(steps):
        share = (step + 0.5) / steps
        for m in range(order):
            for r in range(2):
                k[m, r] = first[r, m] + share * (last[r, m] - first[r, m])
                c[m, r] = math.sqrt(1.0 - k[m, r] * k[m, r])
                i[m, r] = 1.0 / c[m, r]
                ki[m, r] = k[m, r] * i[m, r]
        p = math.exp(log_levels[0, 0] + share * (log_levels[1, 0] - log_levels[0, 0]))
        q = math.exp(log_levels[0, 1] + share * (log_levels[1, 1] - log_levels[0, 1]))
        for t in range(step * x.shape[1] // steps, (step + 1) * x.shape[1] // steps):
            if analysing:
                f, g = x[0, t] / p, x[1, t] / q
                below_f, below_g = f, g
                for m in range(order):
                    b, d = u[m], v[m]
                    u[m], v[m] = below_f, below_g
                    f = f * i[m, 0] + ki[m, 0] * b
                    g = g * i[m, 1] + ki[m, 1] * d
                    below_f = k[m, 0] * f + c[m, 0] * b
                    below_g = k[m, 1] * g + c[m, 1] * d
                out[0, t], out[1, t] = f, g
            else:
                # A tiny bias keeps the state of a filter in silence from becoming subnormal.
                f, g = x[0, t] + 1e-30, x[1, t] + 1e-30
                for m in range(order - 1, -1, -1):
                    b, d = u[m], v[m]
                    u[m + 1] = c[m, 0] * b + k[m, 0] * f
                    v[m + 1] = c[m, 1] * d + k[m, 1] * g
                    f = c[m, 0] * f - k[m, 0] * b
                    g = c[m, 1] * g - k[m, 1] * d
                u[0], v[0] = f, g
                out[0, t], out[1, t] = f * p, g * q


@compiled
def burg(signal: F64, floor: float, reflection: F64) -> None:
    """Fill ``reflection`` (order,) by Burg's method; ``floor`` is a power in LSB squared."""
    n = len(signal)
    forward, backward = signal.copy(), signal.copy()
    gain = 1.0
    for m in range(min(len(reflection), n - 1)):
        if gain <= MIN_RESIDUAL_SHARE:
            break
        f, b = forward[m + 1 :], backward[m : n - 1]
        product, power = 0.0, 0.0
        for t in range(len(f)):
            product += f[t] * b[t]
            power += f[t] * f[t] + b[t] * b[t]
        k = -2.0 * product / (power + 2.0 * len(f) * floor)
        k = min(max(k, -MAX_REFLECTION), MAX_REFLECTION)
        reflection[m] = k
        gain *= 1.0 - k * k
        for t in range(len(f) - 1, -1, -1):
            old = f[t]
            f[t] = old + k * b[t]
            backward[m + 1 + t] = b[t] + k * old


@compiled
def levinson(correlation: F64, reflection: F64) -> None:
    """Fill ``reflection`` (order,) from ``correlation`` (order + 1,), by Levinson and Durbin."""
    order = len(reflection)
    a, reverse = np.zeros(order + 1), np.zeros(order + 1)
    a[0] = 1.0
    error = correlation[0]
    least = error * MIN_RESIDUAL_SHARE
    for m in range(order):
        if error <= least:
            break
        acc = 0.0
        for i in range(m + 1):
            acc += a[i] * correlation[m + 1 - i]
        k = min(max(-acc / error, -MAX_REFLECTION), MAX_REFLECTION)
        reflection[m] = k
        for i in range(m + 2):
            reverse[i] = a[m + 1 - i]
        for i in range(m + 2):
            a[i] += k * reverse[i]
        error *= 1.0 - k * k

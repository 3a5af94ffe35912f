"""Levels of a signal in mel bands, in dB of full scale, at least ``FLOOR_DB``.

The bands and windows are those of the measure log-mel distance: windows of about 23 ms (1024
frames at 44.1 kHz), half a window apart (a *hop*).
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

BANDS = 64
WINDOW_SECONDS = 0.0232
FLOOR_DB = -90.0
FULL_SCALE = 32768.0


def window_frames(sample_rate_hz: int) -> int:
    """Return the length of a window: a power of two, at least 16 frames."""
    return power_of_two(WINDOW_SECONDS * sample_rate_hz)


def band_levels(signal: F32 | F64, sample_rate_hz: int, per_hop: int = 1) -> F32:
    """Return (windows, BANDS) float32 levels in dB of ``signal`` (frames,), in LSB.

    Windows begin at each hop, or ``per_hop`` times in each; all lie within the signal.
    """
    size = window_frames(sample_rate_hz)
    step = size // 2 // per_hop
    if len(signal) < size:
        return np.empty((0, BANDS), np.float32)
    window = np.hanning(size + 1)[:-1].astype(np.float32)
    scaled = np.asarray(signal, np.float32) / np.float32(FULL_SCALE * window.sum() / 2.0)
    windows = np.lib.stride_tricks.sliding_window_view(scaled, size)[::step]
    filters = mel_filters(size, sample_rate_hz)
    power = np.empty((len(windows), BANDS), np.float32)
    for first in range(0, len(windows), 256):
        spectrum = np.fft.rfft(windows[first : first + 256] * window)
        power[first : first + 256] = (spectrum.real**2 + spectrum.imag**2) @ filters
    return np.asarray(10.0 * np.log10(np.maximum(power, 10.0 ** (FLOOR_DB / 10.0))), np.float32)


@lru_cache(maxsize=8)
def mel_filters(size: int, sample_rate_hz: int) -> F32:
    """Return the triangular mel bands of a window, (size // 2 + 1, BANDS) float32."""
    bins = np.arange(size // 2 + 1) * sample_rate_hz / size
    edges = mel_edges_hz(sample_rate_hz)
    rise = (bins[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
    return np.asarray(np.maximum(np.minimum(rise, fall), 0.0), np.float32)


def mel_edges_hz(sample_rate_hz: int) -> F64:
    """Return the BANDS + 2 frequencies between which the bands lie.

    Equally spaced on Slaney's mel scale: linear below 1 kHz, logarithmic above (Slaney,
    "Auditory Toolbox", 1998).
    """
    octave = math.log(6.4) / 27.0
    top_hz = sample_rate_hz / 2.0
    top = top_hz * 0.015 if top_hz < 1000.0 else 15.0 + math.log(top_hz / 1000.0) / octave
    mel = np.linspace(0.0, top, BANDS + 2)
    return np.where(mel < 15.0, mel / 0.015, 1000.0 * np.exp((mel - 15.0) * octave))


def power_of_two(value: float) -> int:
    """Return the power of two nearest to ``value`` in ratio, at least 16."""
    return int(max(2 ** round(math.log2(max(value, 1.0))), 16))

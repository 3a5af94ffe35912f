"""Perceptual distances between two sounds, as pure functions of arrays.

Signals are (frames,) float64 with full scale 1; the two signals of a comparison have equal length.

Sources: log-mel and multi-resolution spectral distance: Yamamoto et al., "Parallel WaveGAN", 2020;
onsets as spectral flux, chroma: Müller, "Fundamentals of Music Processing", 2015.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Samples = NDArray[np.int16]

FULL_SCALE = 32768.0
# Levels below this, relative to full scale, count as this; such a moment is silent.
FLOOR_DB = -90.0
MEL_BANDS = 64
MEL_SECONDS, CHROMA_SECONDS = 0.0232, 0.0929
RESOLUTIONS = (256, 512, 1024, 2048)


def mono(samples: Samples) -> F64:
    """Return the mean of the channels of (frames, channels) int16: (frames,), full scale 1."""
    return np.asarray(samples.astype(np.float64).mean(axis=1) / FULL_SCALE)


def log_mel_distance_db(true: F64, track: F64, sample_rate_hz: int) -> float:
    """Return the mean absolute difference of levels in mel bands, in dB; 0 for equal signals.

    >>> x = np.sin(np.arange(4096) / 9.0)
    >>> round(log_mel_distance_db(x, 0.1 * x, 44100), 6) <= 20.0
    True
    """
    difference = log_mel_db(true, sample_rate_hz) - log_mel_db(track, sample_rate_hz)
    return float(np.mean(np.abs(difference)))


def spectral_distance_db(true: F64, track: F64) -> float:
    """Return the mean absolute difference of levels in all bins at four resolutions, in dB."""
    distances = [
        np.mean(np.abs(decibels(spectrogram(true, n)) - decibels(spectrogram(track, n))))
        for n in RESOLUTIONS
    ]
    return float(np.mean(distances))


def onset_correlation(true: F64, track: F64, sample_rate_hz: int) -> float:
    """Return the correlation of the onset strengths, -1 to 1; 0 if one signal has no onset."""
    return _correlation(onsets(true, sample_rate_hz), onsets(track, sample_rate_hz))


def chroma_similarity(true: F64, track: F64, sample_rate_hz: int) -> float:
    """Return the mean cosine similarity of the pitch classes at each moment, 0 to 1."""
    a, b = chroma(true, sample_rate_hz), chroma(track, sample_rate_hz)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(np.mean(np.sum(a * b, axis=1) / np.maximum(norms, 1e-30)))


def flatness_difference_db(true: F64, track: F64) -> float:
    """Return the spectral flatness of ``track`` minus that of ``true``, in dB.

    Positive means noisier, negative more tonal. The mean is over moments when neither is silent; 0
    if there are no such moments.
    """
    size = RESOLUTIONS[-1]
    a, b = spectrogram(true, size), spectrogram(track, size)
    floor = 10.0 ** (FLOOR_DB / 10.0)
    both = (a.max(axis=1) > floor) & (b.max(axis=1) > floor)
    if not np.any(both):
        return 0.0
    return float(np.mean(flatness_db(b[both]) - flatness_db(a[both])))


def flatness_db(power: F64) -> F64:
    """Return geometric over arithmetic mean of each row, in dB: 0 for white, negative for tones."""
    floored = np.maximum(power, 10.0 ** (FLOOR_DB / 10.0) * 1e-3)
    return np.asarray(
        10.0 * (np.mean(np.log10(floored), axis=1) - np.log10(np.mean(floored, axis=1)))
    )


def level_db(signal: F64) -> float:
    """Return the RMS in dB of full scale, at least ``FLOOR_DB``."""
    power = float(np.mean(signal**2)) if len(signal) else 0.0
    return 10.0 * math.log10(max(power, 10.0 ** (FLOOR_DB / 10.0)))


def silent_share(signal: F64, sample_rate_hz: int) -> float:
    """Return the share of moments (23 ms) at or below ``FLOOR_DB``."""
    size = mel_size(sample_rate_hz)
    parts = np.array_split(signal, max(len(signal) // size, 1))
    return float(np.mean([level_db(part) <= FLOOR_DB for part in parts]))


def clipped_share(samples: Samples) -> float:
    """Return the share of samples at the edge of the int16 range."""
    return float(np.mean((samples == 32767) | (samples == -32768))) if samples.size else 0.0


def mel_size(sample_rate_hz: int) -> int:
    """Return the window length for mel bands: a power of two of about 23 ms."""
    return int(2 ** round(math.log2(MEL_SECONDS * sample_rate_hz)))


def log_mel_db(signal: F64, sample_rate_hz: int) -> F64:
    """Return levels in mel bands, (hops, MEL_BANDS) in dB of full scale, 12 ms apart."""
    size = mel_size(sample_rate_hz)
    return decibels(spectrogram(signal, size) @ _mel(size, sample_rate_hz))


def onsets(signal: F64, sample_rate_hz: int) -> F64:
    """Return the onset strength, the mean rise over mel bands: (hops - 1,) in dB."""
    levels = log_mel_db(signal, sample_rate_hz)
    return np.asarray(np.maximum(np.diff(levels, axis=0), 0.0).mean(axis=1))


def chroma(signal: F64, sample_rate_hz: int) -> F64:
    """Return the amplitude of each of the 12 pitch classes: (hops, 12)."""
    size = int(2 ** round(math.log2(CHROMA_SECONDS * sample_rate_hz)))
    return np.sqrt(spectrogram(signal, size)) @ _chroma(size, sample_rate_hz)


def spectrogram(signal: F64, size: int) -> F64:
    """Return the power in each bin, (hops, size // 2 + 1); 1 for a full-scale sine.

    The Hann windows overlap by half and lie within ``signal``; a shorter signal is zero-padded.
    """
    signal = np.pad(signal, (0, max(size - len(signal), 0)))
    window = np.hanning(size + 1)[:-1]
    windows = np.lib.stride_tricks.sliding_window_view(signal, size)[:: size // 2]
    return np.asarray(np.abs(np.fft.rfft(windows * window)) ** 2 / (np.sum(window) / 2.0) ** 2)


def decibels(power: F64) -> F64:
    """Return 10 log10(power), at least ``FLOOR_DB``."""
    return np.asarray(10.0 * np.log10(np.maximum(power, 10.0 ** (FLOOR_DB / 10.0))))


def _correlation(a: F64, b: F64) -> float:
    a, b = a - np.mean(a), b - np.mean(b)
    norm = math.sqrt(float(np.sum(a**2) * np.sum(b**2)))
    return float(np.sum(a * b)) / norm if norm > 0 else 0.0


@lru_cache(maxsize=8)
def _mel(size: int, sample_rate_hz: int) -> F64:
    from librosa.filters import mel

    return np.asarray(
        mel(sr=sample_rate_hz, n_fft=size, n_mels=MEL_BANDS, norm=None, dtype=np.float64).T
    )


@lru_cache(maxsize=8)
def _chroma(size: int, sample_rate_hz: int) -> F64:
    from librosa.filters import chroma as filters

    return np.asarray(filters(sr=sample_rate_hz, n_fft=size, dtype=np.float64).T)

"""The match model: music repeats, and the errors of every forecaster repeat with it.

A forecaster that adapts to the last few thousand samples has forgotten the last bar. The match
model searches for the past passages whose normalised errors are most similar to the latest ones,
and predicts the next error from the errors that followed there. Sources: the match model of paq
(Mahoney, "Adaptive weighing of context models for lossless data compression", 2005) and long-term
prediction in speech codecs (Atal and Schroeder, 1970).

An error is in units of the width of the bias-corrected mixture: ``(x - mean) / width``, clipped at
three widths, with the mean after the bias stage's shift and ``width`` as in ``BiasStage``. The
result enters model averaging as two more mixtures beside the unchanged one: *moved* (``locations +
move * width``, the same scales) and *moved and scaled* (also ``scales * ratio``). Their log odds
against the unchanged mixture are leaky sums of the differences in code length, like those of the
other mixtures in ``ModelAveraging`` (first odds -2 bits; forgetting 0.995 measured better than
0.998). Where nothing repeats, nothing is lost.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from songcast.forecasting.match_kernels import RANK, follow

F32 = NDArray[np.float32]

# Frames between searches, and of the latest errors that are searched for.
SEARCH_EVERY = 2048
QUERY = 2048
PLACES, REACH = 4, 4
# Places that follow each other by less than this are one place. Nearer lags are the bias stage's.
APART, MIN_LAG = 40, 1024
# The past is transformed in chunks that overlap by the length of the query.
FFT_SIZE = 16384
HOP = FFT_SIZE - QUERY
# The oldest errors are dropped: 2.6 million frames are 60 s at 44.1 kHz.
MAX_CHUNKS = 184


class MatchModel:
    """The match model of one song.

    Two filters predict each error from those around the aligned places, in both channels: least
    squares and NLMS. Least squares over their two predictions combines them.

    State is carried from call to call: the result does not depend on the size of the blocks, bit
    for bit. Searches take place at multiples of ``SEARCH_EVERY`` frames, from the errors before.
    """

    def __init__(self, channels: int) -> None:
        n = PLACES * channels * (2 * REACH + 1)
        self.lags = np.zeros(PLACES, np.int64)
        self._state = (
            np.zeros(1, np.int64),
            np.zeros((n, n), np.float32),
            np.zeros((channels, 3, n), np.float32),
            np.zeros((RANK, n + channels), np.float32),
            np.array([[0.0] * 5 + [0.5] * 2] * channels),
        )
        self._past = _Past(channels)

    def predict(self, errors: F32) -> tuple[F32, F32]:
        """Predict ``errors`` (channels, frames) from the errors before, then adapt to them.

        Returns the expected error in widths, at most 2, and the ratio of the mean error with the
        prediction to that without it, 0.05 to 1.2; both are (channels, frames) float32.
        """
        moves, ratios = np.empty((2, *errors.shape), np.float32)
        start = 0
        while start < errors.shape[1]:
            frames = self._past.frames
            if frames % SEARCH_EVERY == 0:
                self.lags = self._past.search()
            stop = min(start + SEARCH_EVERY - frames % SEARCH_EVERY, errors.shape[1])
            part = np.empty((2, len(errors), stop - start), np.float32)
            first = self._past.append(errors[:, start:stop])
            follow(self._past.errors, first, self.lags, REACH, *self._state, part[0], part[1])
            moves[:, start:stop], ratios[:, start:stop] = part
            start = stop
        return moves, ratios


class _Past:
    """The errors of one song so far, and the spectra of their chunks."""

    def __init__(self, channels: int) -> None:
        self.frames = 0
        self.errors = np.zeros((channels, 4 * FFT_SIZE), np.float32)
        self._kept = 0
        self._spectra = np.zeros((4, FFT_SIZE // 2 + 1), np.complex64)
        self._product: Any = np.empty_like(self._spectra)
        self._correlation: Any = np.empty((4, FFT_SIZE), np.float32)
        self._chunks = 0

    def append(self, errors: F32) -> int:
        """Add ``errors`` (channels, frames) to the errors; return the index of the first."""
        first, self._kept = self._kept, self._kept + errors.shape[1]
        self.frames += errors.shape[1]
        if self._kept > self.errors.shape[1]:
            self.errors = np.concatenate([self.errors, np.zeros_like(self.errors)], axis=1)
        self.errors[:, first : self._kept] = errors
        return first

    def search(self) -> NDArray[np.int64]:
        """Return the lags of the most similar passages, the best first; 0 stands for none."""
        self._transform()
        count = self._kept - QUERY - MIN_LAG + 1
        if count <= 0:
            return np.zeros(PLACES, np.int64)
        query = np.conj(self._spectrum(self._kept - QUERY, self._kept))
        product, correlation = (
            array[: self._chunks + 1] for array in (self._product, self._correlation)
        )
        np.multiply(self._spectra[: self._chunks + 1], query, out=product)
        np.fft.irfft(product, FFT_SIZE, out=correlation)
        places = best_places(correlation[:, :HOP], count)
        return np.where(places < 0, 0, self._kept - QUERY - places)

    def _transform(self) -> None:
        """Compute the spectra of new chunks; the last chunk is not full and will be repeated."""
        if self._chunks == MAX_CHUNKS:
            dropped = MAX_CHUNKS // 4
            self._chunks -= dropped
            self._spectra[: self._chunks] = self._spectra[dropped : dropped + self._chunks].copy()
            self._kept -= dropped * HOP
            self.errors[:, : self._kept] = self.errors[:, dropped * HOP :][:, : self._kept].copy()
        for chunk in range(self._chunks, self._kept // HOP + 1):
            if chunk == len(self._spectra):
                self._spectra = np.concatenate([self._spectra, np.zeros_like(self._spectra)])
                # Kept from search to search: new memory costs more than the search itself.
                self._product = np.empty_like(self._spectra)
                self._correlation = np.empty((len(self._spectra), FFT_SIZE), np.float32)
            stop = min(chunk * HOP + FFT_SIZE, self._kept)
            self._spectra[chunk] = self._spectrum(chunk * HOP, stop)
            if chunk * HOP + FFT_SIZE > self._kept:
                break
            self._chunks = chunk + 1

    def _spectrum(self, start: int, stop: int) -> NDArray[np.complex64]:
        """Return the spectrum of the sum of the channels, zero-padded."""
        summed = self.errors[:, start:stop].sum(axis=0)
        return np.fft.rfft(summed, FFT_SIZE).astype(np.complex64, copy=False)


def best_places(correlation: F32, count: int) -> NDArray[np.int64]:
    """Return the places of the largest positive values of ``correlation``, the best first.

    ``correlation`` (chunks, HOP) is destroyed; its rows follow each other, and ``count`` values are
    valid. The places are at least ``APART`` from each other; -1 stands for none.
    """
    places = np.full(PLACES, -1, np.int64)
    chunks = -(-count // HOP)
    correlation = correlation[:chunks]
    correlation[-1, count - (chunks - 1) * HOP :] = 0.0
    peaks = correlation.max(axis=1)
    for k in range(PLACES):
        best = int(peaks.argmax())
        if not peaks[best] > 0.0:
            break
        places[k] = best * HOP + correlation[best].argmax()
        first, last = places[k] - APART + 1, places[k] + APART
        for chunk in range(max(first // HOP, 0), min((last - 1) // HOP, chunks - 1) + 1):
            start = chunk * HOP
            correlation[chunk, max(first - start, 0) : last - start] = 0.0
            peaks[chunk] = correlation[chunk].max()
    return places

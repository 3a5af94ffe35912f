"""Moments that surprise a forecaster: clicks and splices.

Two measures are added, each in standard deviations of its surroundings. The excess: a damaged
sample costs more bits than its surroundings, and so do the next ones, because the filters of the
forecaster have it in their past. The response of a matched filter: how well the samples on both
sides of a frame agree that this sample is wrong. The onset of a note has a small response, and it
stays expensive: the surroundings are those before and those after, the larger of the two.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from songcast.inspection.properties import FULL_SCALE

F64 = NDArray[np.float64]
Event = dict[str, Any]  # kind, seconds, channel, strength

# The excess is summed over this many frames; the mean of what follows starts some frames later.
BURST_FRAMES, GAP_FRAMES = 16, 16
BEFORE_SECONDS, AFTER_SECONDS = 0.05, 0.005
# Events are at least this far apart.
MERGE_SECONDS = 0.005
# The least deviation of the code length, bits, and the least share of frames with a new value:
# after digital silence every sound is a surprise.
LEAST_DEVIATION, LEAST_CHANGES = 0.5, 0.1
# The matched filter: its order, the frames for which its coefficients are computed at once, the
# frames of the surroundings, and the least deviation of the residual (of rounding), LSB.
ORDER, WINDOW, SIDES, LEAST_RESIDUAL = 32, 2048, (64, 512), 0.3
# The share of the excess in the score, and the least score of an event, standard deviations.
EXCESS_SHARE, THRESHOLD = 0.5, 16.0
# A click is over after this many frames: once they are interpolated, the residual of the frames
# that follow has at most this power, relative to the surroundings.
CLICK_FRAMES, REST_FRAMES, MOST_REST = 4, 8, 2.5
# Frames that are searched at a time, and the most events of a song that are kept.
HOP, MOST_EVENTS = 1 << 16, 10_000
# Of the curves in a figure: 23 ms at 44.1 kHz.
BIN_FRAMES = 1024


class EventFinder:
    """Finds the events of a song block by block; memory does not grow with its length.

    Blocks of any size give the same events.
    """

    def __init__(self, sample_rate_hz: int, channels: int, threshold: float = THRESHOLD) -> None:
        self._rate_hz, self._threshold = sample_rate_hz, threshold
        self._merge = max(int(MERGE_SECONDS * sample_rate_hz), BURST_FRAMES)
        # The context on each side: what the score and the kind of an event depend on, in whole
        # windows, so that each window starts at the same frame for blocks of any size.
        context = _frames(BEFORE_SECONDS, sample_rate_hz) + 2 * self._merge
        self._context = (context // WINDOW + 2) * WINDOW
        self._blocks = [(np.zeros((0, channels), np.int16), np.zeros((0, channels)))]
        # The first frame that is kept, the first to be searched, and the end.
        self._first = self._searched = self._end = 0
        self._events: list[Event] = []

    def add(self, samples: NDArray[np.int16], bits: F64) -> None:
        """Search a block: its samples and their code lengths, (frames, channels) each."""
        self._blocks.append((samples, bits))
        self._end += len(bits)
        while self._end >= self._searched + HOP + self._context:
            self._search(self._searched + HOP)

    def result(self) -> list[Event]:
        """Return the events in time, after the last block."""
        while self._searched < self._end:
            self._search(min(self._searched + HOP, self._end))
        return self._events

    def _search(self, stop: int) -> None:
        """Search the frames up to ``stop`` with the context around them, then drop them."""
        all_samples, all_bits = map(np.concatenate, zip(*self._blocks, strict=True))
        rows = slice(0, stop + self._context - self._first)
        x, bits = all_samples[rows].astype(np.float64), all_bits[rows]
        response = matched(x)
        score = combined(response, excess(bits, x, self._rate_hz), x)
        for at in peaks(score, self._threshold, self._merge):
            if self._searched <= at + self._first < stop and len(self._events) < MOST_EVENTS:
                self._events.append(
                    {
                        "kind": kind(at, x),
                        "seconds": round((at + self._first) / self._rate_hz, 6),
                        "channel": int(np.argmax(response[at])),
                        "strength": round(float(score[at]), 2),
                    }
                )
        self._searched = stop
        drop = max(stop - self._context - self._first, 0)
        self._first += drop
        self._blocks = [(all_samples[drop:], all_bits[drop:])]


def combined(response: F64, excess: F64, samples: F64) -> F64:
    """Return the score of each frame, (frames,); 0 next to clipped samples, which are no clicks."""
    size = np.abs(samples)
    beside = np.maximum(np.roll(size, 1, axis=0), np.roll(size, -1, axis=0))
    clipped = ((size >= FULL_SCALE - 1) & (beside > FULL_SCALE / 2)).any(axis=1)
    near = np.convolve(clipped, np.ones(2 * BURST_FRAMES + 1))[BURST_FRAMES:-BURST_FRAMES] > 0.5
    return np.asarray(np.where(near, 0.0, response.max(axis=1) + EXCESS_SHARE * excess))


def excess(bits: F64, samples: F64, sample_rate_hz: int) -> F64:
    """Return the excess of the burst of code lengths that starts at each frame, (frames,).

    ``bits``, ``samples``: (frames, channels). The excess is the sum of the channels.
    """
    before, after = (_frames(s, sample_rate_hz) for s in (BEFORE_SECONDS, AFTER_SECONDS))
    past = _past(bits, before)
    variance = _past(bits**2, before) - past**2
    changes = _past(np.diff(samples, axis=0, prepend=samples[:1]) != 0, before)
    later = _mean(bits, after)[BURST_FRAMES + GAP_FRAMES :]
    level = past
    level[: len(later)] = np.maximum(past[: len(later)], later)
    sums = BURST_FRAMES * (_mean(bits, BURST_FRAMES) - level)
    sums[changes < LEAST_CHANGES] = 0.0
    sums[len(later) :] = 0.0  # the end of the song
    deviation = np.sqrt(np.maximum(variance, LEAST_DEVIATION**2))
    scale = np.sqrt(BURST_FRAMES * bits.shape[1])
    return np.asarray((sums / deviation).sum(axis=1) / scale)


def matched(samples: F64) -> F64:
    """Return the response to a click of one sample at each frame, (frames, channels).

    The residual of an autoregressive model is correlated with the residual of a click, which are
    the coefficients of the model: the likelihood ratio test for a click of unknown size.
    """
    response = np.zeros(samples.shape)
    if len(samples) < WINDOW:
        return response
    half, quarter = WINDOW // 2, WINDOW // 4
    count = -(-len(samples) // half)
    for c, x in enumerate(samples.T):
        padded = np.zeros(count * half + WINDOW)
        padded[quarter : quarter + len(x)] = x
        windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::half][:count]
        a = coefficients(windows)
        spectra, filters = np.fft.rfft(windows), np.fft.rfft(a, WINDOW)
        filtered = (spectra * filters, spectra * (filters.real**2 + filters.imag**2))
        residual, correlated = (
            np.fft.irfft(f)[:, quarter : quarter + half].reshape(-1)[: len(x)] for f in filtered
        )
        norm = np.repeat(np.sqrt((a**2).sum(axis=1)), half)[: len(x)]
        residual[:ORDER] = 0.0
        level = np.full(len(x), LEAST_RESIDUAL**2)
        sums = np.concatenate([[0.0], np.cumsum(residual**2)])
        for n in SIDES:
            power = (sums[n:] - sums[:-n]) / n  # of the n frames from each frame on
            after = power[ORDER + 1 :]
            level[n:] = np.maximum(level[n:], power[:-1])
            level[: len(after)] = np.maximum(level[: len(after)], after)
        response[:, c] = np.abs(correlated) / (norm * np.sqrt(level))
    response[:ORDER] = response[-ORDER:] = 0.0  # the start and the end of the song
    return response


def coefficients(windows: F64) -> F64:
    """Return the filter 1, -a[1], ..., -a[ORDER] that whitens each window, by autocorrelation."""
    width = windows.shape[1]
    spectra = np.fft.rfft(windows * np.hanning(width), width + ORDER)
    lags = np.fft.irfft(np.abs(spectra) ** 2, width + ORDER)[:, : ORDER + 1]
    lags[:, 0] += 1e-9 * lags[:, 0] + width / 32  # as of rounding: a twelfth, times the window's
    at = np.arange(ORDER)
    a = np.linalg.solve(lags[:, np.abs(at[:, None] - at)], lags[:, 1:, None])[..., 0]
    return np.concatenate([np.ones((len(a), 1)), -a], axis=1)


def peaks(score: F64, threshold: float, distance: int) -> list[int]:
    """Return the frames above ``threshold`` with the highest score within ``distance``."""
    found: list[int] = []
    for at in np.flatnonzero(score > threshold).tolist():
        earlier, later = score[max(at - distance, 0) : at], score[at : at + distance + 1]
        if score[at] == later.max() and not (len(earlier) and earlier.max() >= score[at]):
            found.append(at)
    return found


def kind(frame: int, samples: F64) -> str:
    """Return whether the event at ``frame`` is a click or a splice: a click leaves no rest."""
    first, rest = max(frame - WINDOW // 2, 0), []
    burst = slice(frame - first - 1, frame - first - 1 + CLICK_FRAMES + REST_FRAMES)
    for x in samples[first : frame + WINDOW // 2].T:
        a = coefficients(x[None])[0]
        residual = np.convolve(x, a)[: len(x)]
        residual[:ORDER] = 0.0
        after = residual[burst.start + CLICK_FRAMES + ORDER :][: SIDES[0]]
        if burst.start < ORDER or not len(after):
            return "click"
        shapes = np.zeros((CLICK_FRAMES + REST_FRAMES, CLICK_FRAMES))
        for k in range(CLICK_FRAMES):
            shapes[k:, k] = a[: len(shapes) - k]
        sizes = np.linalg.lstsq(shapes, residual[burst])[0]
        before = residual[max(burst.start - SIDES[0], 0) : burst.start]
        level = max(np.mean(before**2), np.mean(after**2), LEAST_RESIDUAL**2)
        rest.append(np.sum((residual[burst] - shapes @ sizes) ** 2) / (REST_FRAMES * level))
    return "splice" if np.mean(rest) > MOST_REST else "click"


def joined(dropouts: Sequence[Event], events: Sequence[Event]) -> list[Event]:
    """Return all events in time, without those at the start or the end of a dropout."""
    edges = np.array([(d["seconds"], d["seconds"] + d["strength"] / 1000) for d in dropouts])
    kept = [
        event
        for event in events
        if not np.any(np.abs(edges - event["seconds"]) <= 2 * MERGE_SECONDS)
    ]
    return sorted([*dropouts, *kept], key=lambda event: (event["seconds"], event["channel"]))


def labels(events: Sequence[Event]) -> str:
    """Return the events as the content of a label file of Audacity."""
    lines = []
    for event in events:
        length = event["strength"] / 1000 if event["kind"] == "dropout" else 0.0
        unit = "ms" if event["kind"] == "dropout" else "deviations"
        start = event["seconds"]
        text = f"{event['kind']} {event['strength']:.1f} {unit}, channel {event['channel']}"
        lines.append(f"{start:.6f}\t{start + length:.6f}\t{text}\n")
    return "".join(lines)


class Overview:
    """The envelope and the mean code length of a song over time, in bins of ``BIN_FRAMES``."""

    def __init__(self, channels: int) -> None:
        self._rest = np.zeros((0, 2, channels))  # samples and bits
        self._bins = [np.zeros((0, 3))]

    def add(self, samples: NDArray[np.int16], bits: F64) -> None:
        """Add a block, (frames, channels) each."""
        both = np.concatenate([self._rest, np.stack([samples, bits], 1)])
        whole = len(both) // BIN_FRAMES * BIN_FRAMES
        self._rest = both[whole:]
        parts = both[:whole].reshape(-1, BIN_FRAMES, *both.shape[1:])
        x, cost = parts[:, :, 0], parts[:, :, 1]
        self._bins.append(np.stack([x.min((1, 2)), x.max((1, 2)), cost.mean((1, 2))], 1))

    @property
    def bins(self) -> F64:
        """(bins, 3): the lowest and highest sample, and the mean code length."""
        return np.concatenate(self._bins)


def _frames(seconds: float, sample_rate_hz: int) -> int:
    return max(int(seconds * sample_rate_hz), BURST_FRAMES)


def _mean(x: F64, length: int) -> F64:
    """Return the mean of x[t : t + length] for each t, of fewer at the end."""
    return _past(x[::-1], length, 1)[::-1]


def _past(x: NDArray[Any], length: int, last: int = 0) -> F64:
    """Return the mean of x[t - length + last : t + last] for each t, of fewer at the start."""
    sums = np.zeros((len(x) + 1, x.shape[1]))
    np.cumsum(x, axis=0, out=sums[1:])
    means = sums[last : len(x) + last].copy()
    first = length - last
    means[first:] -= sums[: max(len(x) - first, 0)]
    means /= np.clip(np.arange(len(x)) + last, 1, length)[:, None]
    return means

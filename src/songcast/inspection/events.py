"""Moments that surprise a forecaster: clicks and splices, from the code length of each sample.

A damaged sample costs more bits than its surroundings, and so do the next ones, because the
filters of the forecaster have it in their past. The onset of a note costs more bits too, but it
stays expensive: the surroundings are those before and those after, the more expensive of the two.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
# Standard deviations; chosen on two demo songs for about one false alarm in 10 s of music.
THRESHOLD = 16.0
# A click ends within this time. The excess of a splice lasts longer, by these bits per sample, and
# the power of the signal or of its differences changes by this much.
CLICK_SECONDS, LASTING_BITS, CHANGE_DB = 0.002, 1.5, 6.0
# Frames that are searched at a time, and the most events of a song that are kept.
HOP, MOST_EVENTS = 1 << 15, 10_000


class EventFinder:
    """Finds the events of a song block by block; memory does not grow with its length.

    Blocks of any size give the same events.
    """

    def __init__(self, sample_rate_hz: int, channels: int, threshold: float = THRESHOLD) -> None:
        self._rate_hz, self._threshold = sample_rate_hz, threshold
        self._merge = max(int(MERGE_SECONDS * sample_rate_hz), BURST_FRAMES)
        # The context on each side: what the score and the kind of an event depend on.
        self._context = _frames(BEFORE_SECONDS, sample_rate_hz) + 2 * self._merge + 64
        self._samples = np.zeros((0, channels), np.int16)
        self._bits = np.zeros((0, channels), np.float64)
        self._first = self._searched = 0  # frame of the first one kept, first to be searched
        self._events: list[Event] = []

    def add(self, samples: NDArray[np.int16], bits: F64) -> None:
        """Search a block: its samples and their code lengths, (frames, channels) each."""
        self._samples = np.concatenate([self._samples, samples])
        self._bits = np.concatenate([self._bits, bits])
        while self._first + len(self._bits) >= self._searched + HOP + self._context:
            self._search(self._searched + HOP)

    def result(self) -> list[Event]:
        """Return the events in time, after the last block."""
        while self._searched < self._first + len(self._bits):
            self._search(min(self._searched + HOP, self._first + len(self._bits)))
        return self._events

    def _search(self, stop: int) -> None:
        """Search the frames up to ``stop`` with the context around them, then drop them."""
        rows = slice(0, stop + self._context - self._first)
        x, bits = self._samples[rows].astype(np.float64), self._bits[rows]
        strength = excess(bits, x, self._rate_hz)
        score = strength[1]
        for at in peaks(score, self._threshold, self._merge):
            if self._searched <= at + self._first < stop and len(self._events) < MOST_EVENTS:
                self._events.append(self._event(int(at), x, bits, strength[0]))
        self._searched = stop
        drop = max(stop - self._context - self._first, 0)
        self._first += drop
        self._samples, self._bits = self._samples[drop:], self._bits[drop:]

    def _event(self, at: int, x: F64, bits: F64, strength: F64) -> Event:
        burst = bits[at : at + BURST_FRAMES]
        frame = at + int(np.argmax(burst.sum(axis=1)))
        channel = int(np.argmax(strength[at]))
        return {
            "kind": kind(frame, x[:, channel], bits[:, channel], self._rate_hz),
            "seconds": round((frame + self._first) / self._rate_hz, 6),
            "channel": channel,
            "strength": round(float(strength[at].sum()), 2),
        }


def excess(bits: F64, samples: F64, sample_rate_hz: int) -> tuple[F64, F64]:
    """Return the excess of the burst that starts at each frame, and its score.

    ``bits``, ``samples``: (frames, channels). The excess is in bits, (frames, channels); the
    score, (frames,), is in standard deviations, summed over the channels.
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
    return sums, np.asarray((sums / deviation).sum(axis=1) / scale)


def peaks(score: F64, threshold: float, distance: int) -> list[int]:
    """Return the frames above ``threshold`` with the highest score within ``distance``."""
    found: list[int] = []
    for at in np.flatnonzero(score > threshold).tolist():
        earlier, later = score[max(at - distance, 0) : at], score[at : at + distance + 1]
        if score[at] == later.max() and not (len(earlier) and earlier.max() >= score[at]):
            found.append(at)
    return found


def kind(frame: int, samples: F64, bits: F64, sample_rate_hz: int) -> str:
    """Return whether the event of one channel at ``frame`` is a click or a splice."""
    length, end = (_frames(s, sample_rate_hz) for s in (BEFORE_SECONDS, CLICK_SECONDS))
    before = slice(max(frame - length, 0), frame)
    after = slice(frame + end, frame + end + length)
    if not len(bits[before]) or not len(bits[after]):
        return "click"
    lasting = bits[after][: length // 4].mean() - bits[before].mean()
    powers = [
        [np.mean(np.diff(samples[side], order) ** 2) + 1.0 for side in (before, after)]
        for order in (0, 1, 2)
    ]
    change = max(abs(10 * np.log10(b / a)) for a, b in powers)
    return "splice" if lasting >= LASTING_BITS and change >= CHANGE_DB else "click"


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
        unit = "ms" if event["kind"] == "dropout" else "bits"
        start = event["seconds"]
        text = f"{event['kind']} {event['strength']:.1f} {unit}, channel {event['channel']}"
        lines.append(f"{start:.6f}\t{start + length:.6f}\t{text}\n")
    return "".join(lines)


class Overview:
    """The envelope and the mean code length of a song over time, in at most ``most`` bins."""

    def __init__(self, channels: int, most: int = 2000) -> None:
        self._most, self.bin_frames = most, 64
        self._rest = np.zeros((0, 2, channels))  # samples and bits
        self._bins = np.zeros((0, 3))  # lowest and highest sample, mean code length

    def add(self, samples: NDArray[np.int16], bits: F64) -> None:
        """Add a block, (frames, channels) each."""
        both = np.concatenate([self._rest, np.stack([samples, bits], 1)])
        count = len(both) // self.bin_frames
        if count and (len(self._bins) + count) % 2:  # an even number, so that pairs can join
            count -= 1
        whole = count * self.bin_frames
        self._rest = both[whole:]
        parts = both[:whole].reshape(count, self.bin_frames, *both.shape[1:])
        if count:
            x, cost = parts[:, :, 0], parts[:, :, 1]
            new = np.stack([x.min((1, 2)), x.max((1, 2)), cost.mean((1, 2))], 1)
            self._bins = np.concatenate([self._bins, new])
        while len(self._bins) > self._most and len(self._bins) % 2 == 0:
            pairs = self._bins.reshape(-1, 2, 3)
            low, high = pairs[..., 0].min(1), pairs[..., 1].max(1)
            self._bins = np.stack([low, high, pairs[..., 2].mean(1)], 1)
            self.bin_frames *= 2

    @property
    def bins(self) -> F64:
        """(bins, 3): the lowest and highest sample, and the mean code length."""
        return self._bins


def _frames(seconds: float, sample_rate_hz: int) -> int:
    return max(int(seconds * sample_rate_hz), BURST_FRAMES)


def _mean(x: F64, length: int) -> F64:
    """Return the mean of x[t : t + length] for each t, of fewer at the end."""
    sums = np.concatenate([np.zeros((1, x.shape[1])), np.cumsum(x, axis=0)])
    stops = np.minimum(np.arange(len(x)) + length, len(x))
    return np.asarray((sums[stops] - sums[:-1]) / (stops - np.arange(len(x)))[:, None])


def _past(x: NDArray[Any], length: int) -> F64:
    """Return the mean of x[t - length : t] for each t, of fewer at the start."""
    sums = np.concatenate([np.zeros((1, x.shape[1])), np.cumsum(x, axis=0, dtype=np.float64)])
    starts = np.maximum(np.arange(len(x)) - length, 0)
    counts = np.maximum(np.arange(len(x)) - starts, 1)
    return np.asarray((sums[:-1] - sums[starts]) / counts[:, None])

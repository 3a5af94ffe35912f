"""Properties of a recording and the damage that shows in its samples, measured in one pass."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.int16]
F64 = NDArray[np.float64]

FULL_SCALE = 32768
SILENT = 33  # LSB, -60 dB of full scale: a segment with lower peaks is silent
LOUD = 328  # LSB, -40 dB
# Samples at the peak of the song count as clipped in runs of this length.
CLIPPED_RUN = 3
# A dropout is a run of exact zeros that is at least this long, between samples this large.
DROPOUT_SECONDS, DROPOUT_EDGE_FRAMES, DROPOUT_EDGE = 0.002, 32, 100
MOST_DROPOUTS = 1000  # that are listed
# The power of the side (or mid) signal that is noise of a codec, as a share of the whole.
ALIKE = 1e-4
# Power density, in dB of white noise of 1 LSB; rounding makes -11, with dither -6.
ABOVE_ROUNDING_DB = 0.0
# A low-pass: the spectrum falls by this much within 500 Hz, and stays below this density.
STEEP_DB, QUIET_DB = 8.0, 3.0


@dataclass
class _Zeros:
    """The runs of zeros of one channel, found block by block."""

    shortest: int
    run: int = 0
    before: int = 0  # largest amplitude just before the run
    found: list[tuple[int, int]] = field(default_factory=list)  # first frame, frames

    def add(self, x: Samples, start: int) -> None:
        """Search a block that starts at frame ``start``."""
        sounding = np.flatnonzero(x)
        if not len(sounding):
            self.run += len(x)
            return
        ends = np.concatenate([[-1 - self.run], sounding, [len(x)]])
        for k in np.flatnonzero(np.diff(ends[:-1]) > self.shortest):
            stop = int(ends[k + 1])
            first = int(ends[k]) + 1
            before = _peak(x[max(first - DROPOUT_EDGE_FRAMES, 0) : first]) if k else self.before
            after = _peak(x[stop : stop + DROPOUT_EDGE_FRAMES])
            if min(before, after) >= DROPOUT_EDGE:
                self.found.append((start + first, stop - first))
        last = int(sounding[-1]) + 1
        self.run = len(x) - last
        self.before = _peak(x[max(last - DROPOUT_EDGE_FRAMES, 0) : last])


class PropertyMeter:
    """Measures a song block by block; memory does not grow with its length.

    Blocks of any size give the same result.
    """

    def __init__(self, sample_rate_hz: int, channels: int) -> None:
        self._rate_hz, self._channels = sample_rate_hz, channels
        # The power of two next to 0.1 s, within bounds for odd sample rates.
        self._segment = 2 ** int(np.clip(round(np.log2(0.1 * sample_rate_hz)), 4, 15))
        self._window = np.hanning(self._segment).astype(np.float32)
        self._rest = np.zeros((0, channels), np.int16)
        self._frames = self._segments = self._silent = self._one_sided = self._spectra = 0
        self._sums = np.zeros(channels, np.int64)
        self._power = np.zeros((channels, channels), np.float64)
        self._counts = np.zeros(2 * FULL_SCALE, np.int64)
        self._spectrum = np.zeros(self._segment // 2 + 1)
        self._zeros = [
            _Zeros(max(int(DROPOUT_SECONDS * sample_rate_hz), 8)) for _ in range(channels)
        ]
        self._clipping = [(_Clipping(1), _Clipping(-1)) for _ in range(channels)]

    def add(self, block: Samples) -> None:
        """Measure a block (frames, channels)."""
        joined = np.concatenate([self._rest, block])
        whole = len(joined) // self._segment * self._segment
        self._rest = joined[whole:]
        self._measure(joined[:whole])

    def _measure(self, x: Samples) -> None:
        if not len(x):
            return
        channels = np.ascontiguousarray(x.T)
        for zeros, clipping, signal in zip(self._zeros, self._clipping, channels, strict=True):
            zeros.add(signal, self._frames)
            for side in clipping:
                side.add(signal)
        self._frames += len(x)
        wide = channels.astype(np.float32)
        self._sums += channels.sum(axis=1, dtype=np.int64)
        self._power += np.inner(wide, wide)
        self._counts += np.bincount(channels.ravel().view(np.uint16), minlength=65536)
        if len(x) % self._segment:  # the end of the song
            return
        rows = wide.reshape(self._channels, -1, self._segment)
        peaks = np.maximum(rows.max(axis=2), -rows.min(axis=2))
        loudest, quietest = peaks.max(axis=0), peaks.min(axis=0)
        self._segments += peaks.shape[1]
        self._silent += int((loudest < SILENT).sum())
        self._one_sided += int(((quietest <= 1) & (loudest >= LOUD)).sum())
        spectra = np.fft.rfft(rows[:, loudest >= SILENT] * self._window)
        power = (spectra.real**2 + spectra.imag**2).mean(axis=0)
        self._spectrum += np.log10(power / np.sum(self._window**2) + 1e-3).sum(axis=0)
        self._spectra += len(power)

    def result(self) -> dict[str, Any]:
        """Return the properties as they stand in metrics/data.json, and end the song."""
        rest, self._rest = self._rest, self._rest[:0]
        self._measure(rest)
        bandwidth, low_pass = self._band()
        self._counts = np.roll(self._counts, FULL_SCALE)  # of -32768 first
        used = np.flatnonzero(self._counts) - FULL_SCALE
        peak = max(-int(used[0]), int(used[-1]))
        dropouts = [frames for zeros in self._zeros for _, frames in zeros.found[:MOST_DROPOUTS]]
        clipped = sum(side.finish() for sides in self._clipping for side in sides)
        return {
            "seconds": round(self._frames / self._rate_hz, 3),
            "sample_rate_hz": self._rate_hz,
            "channels": self._channels,
            "peak_dbfs": round(float(20 * np.log10(peak / FULL_SCALE)), 2) if peak else None,
            "clipped_share": _share(clipped, self._frames * self._channels),
            "silent_share": _share(self._silent, self._segments),
            "dc_offset": [_share(int(s), self._frames * FULL_SCALE) for s in self._sums],
            "bandwidth_hz": bandwidth,
            "low_pass_hz": low_pass,
            "effective_bits": self._effective_bits(),
            "channel_relation": self._relation(),
            "one_sided_seconds": round(self._one_sided * self._segment / self._rate_hz, 2),
            "dropouts": len(dropouts),
            "dropout_seconds": round(sum(dropouts) / self._rate_hz, 3),
        }

    @property
    def events(self) -> list[dict[str, Any]]:
        """The dropouts so far, in time, at most ``MOST_DROPOUTS`` of each channel.

        ``strength``: the duration in ms.
        """
        found = [
            {
                "kind": "dropout",
                "seconds": round(frame / self._rate_hz, 6),
                "channel": channel,
                "strength": round(1000 * frames / self._rate_hz, 2),
            }
            for channel, zeros in enumerate(self._zeros)
            for frame, frames in zeros.found[:MOST_DROPOUTS]
        ]
        return sorted(found, key=lambda event: (event["seconds"], event["channel"]))

    def _band(self) -> tuple[int | None, int | None]:
        """Return the highest frequency above the rounding noise, and that of a low-pass."""
        if not self._spectra:
            return None, None
        width = self._rate_hz / self._segment
        kernel = np.ones(int(np.clip(150 / width, 1, self._segment // 16)))
        level = 10 * np.convolve(self._spectrum / self._spectra, kernel / len(kernel), "same")
        above = np.flatnonzero(level > ABOVE_ROUNDING_DB)
        highest = round(float(above[-1] * width)) if len(above) else None
        near, far = max(round(100 / width), 1), max(round(600 / width), 2)
        sums = np.concatenate([[0.0], np.cumsum(level)])
        at = np.arange(far, len(level) - far)
        if not len(at):
            return highest, None
        below = (sums[at - near] - sums[at - far]) / (far - near)
        beyond = (sums[at + far] - sums[at + near]) / (far - near)
        quiet = np.maximum.accumulate(level[::-1])[::-1][at + far] <= QUIET_DB
        drop = np.where(quiet & (beyond <= QUIET_DB), below - beyond, 0.0)
        edge = int(np.argmax(drop))
        return highest, round(float(at[edge] * width)) if drop[edge] >= STEEP_DB else None

    def _effective_bits(self) -> float | None:
        """Return 16, less the bits that are unused among the middle half of the amplitudes."""
        counts = self._counts.copy()
        counts[FULL_SCALE] = 0
        total = np.cumsum(counts)
        first, last = np.searchsorted(total, [total[-1] / 4, total[-1] * 3 / 4])
        span = int(last - first)
        if span == 0 or total[-1] < 16 * span:  # too short to use every level
            return None
        steps = int(np.count_nonzero(self._counts[first : last + 1])) - 1
        return round(16.0 - float(np.log2(span / (steps or 1))), 1)

    def _relation(self) -> str:
        if self._channels == 1:
            return "mono"
        (left, both), (_, right) = self._power
        total = left + right
        if min(left, right) <= 1e-6 * total:
            return "one silent" if total else "equal"
        if left + right - 2 * both <= 2 * ALIKE * total:
            return "equal"
        return "inverted" if left + right + 2 * both <= 2 * ALIKE * total else "stereo"


class _Clipping:
    """Counts the samples in runs of ``CLIPPED_RUN`` or more at the peak of one sign."""

    def __init__(self, sign: int) -> None:
        self._sign, self._top, self._run, self._count = sign, LOUD, 0, 0

    def add(self, x: Samples) -> None:
        top = int(x.max()) if self._sign > 0 else -int(x.min())
        if top < self._top:
            self._close()
            return
        if top > self._top:
            self._top, self._run, self._count = top, 0, 0
        at = np.flatnonzero(x == self._sign * top)
        groups = np.split(at, np.flatnonzero(np.diff(at) > 1) + 1)
        for group in groups:
            if group[0] != 0:
                self._close()
            self._run += len(group)
        if at[-1] != len(x) - 1:
            self._close()

    def _close(self) -> None:
        self._count += self._run if self._run >= CLIPPED_RUN else 0
        self._run = 0

    def finish(self) -> int:
        """Return the number of clipped samples of the song."""
        self._close()
        return self._count


def _share(part: int, whole: int) -> float:
    return round(part / whole, 6) if whole else 0.0


def _peak(x: Samples) -> int:
    return int(np.abs(x.astype(np.int32)).max(initial=0))

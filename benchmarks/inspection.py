"""Recall of clicks: the code length of cascade against the residual of a windowed AR(32).

Plants clicks of one sample in excerpts from the middle of songs. The threshold is set on the same
excerpt without clicks, and a click is found if an event is within 2 ms of it.

    .venv/bin/python benchmarks/inspection.py song.mp3 other.flac
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

import songcast
from filter_bank import excerpt
from songcast.audio.songs import Song
from songcast.inspection.events import excess, peaks
from songcast.report.console import note, print_json, print_table

SIZES, RATES, CLICKS = (1, 2, 4, 8), (1.0, 0.1), 60
NEAR_SECONDS, MERGE_SECONDS, START_SECONDS = 0.002, 0.005, 0.25
ORDER, WINDOW_SECONDS = 32, 0.05
CASCADE = songcast.load("cascade")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("songs", metavar="SONG", nargs="+", type=Path)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = {}
    for path in arguments.songs:
        found[path.stem] = recall(excerpt(path, arguments.seconds))
        note(f"{path.stem}: {found[path.stem].round(2).tolist()}")
    found["mean"] = np.mean(list(found.values()), axis=0)
    if arguments.json:
        print_json({name: values.tolist() for name, values in found.items()})
        return 0
    rows = [
        [name, method, f"{rate:g}", *(f"{value:.2f}" for value in values[m, r])]
        for name, values in found.items()
        for m, method in enumerate(METHODS)
        for r, rate in enumerate(RATES)
    ]
    print_table(["song", "method", "false alarms per s", *map(str, SIZES)], rows, left=2)
    return 0


def recall(song: Song) -> np.ndarray:
    """Return the share of clicks that are found: (methods, false-alarm rates, sizes)."""
    rate, frames = song.sample_rate_hz, song.frames
    start, near = int(START_SECONDS * rate), int(NEAR_SECONDS * rate)
    result = np.empty((len(METHODS), len(RATES), len(SIZES)))
    heights = []
    for score in METHODS.values():
        clean = score(song)
        at = events(clean, float(np.quantile(clean, 0.95)), start, rate)
        heights.append(np.sort(clean[at])[::-1])
    for s, size in enumerate(SIZES):
        damaged, at = plant(song, size, np.random.default_rng(size))
        for m, score in enumerate(METHODS.values()):
            values = score(damaged)
            for r, alarms in enumerate(RATES):
                threshold = heights[m][int(alarms * (frames - start) / rate)]
                times = np.array([-frames, *events(values, threshold, start, rate)])
                distance = np.abs(times[:, None] - at).min(axis=0)
                result[m, r, s] = np.mean(distance <= near)
    return result


def events(score: np.ndarray, threshold: float, start: int, rate: int) -> np.ndarray:
    """Return the frames of the events above ``threshold``, merged within 5 ms."""
    at = np.array(peaks(score, threshold, int(MERGE_SECONDS * rate)), int)
    return at[at >= start]


def plant(song: Song, size: float, rng: np.random.Generator) -> tuple[Song, np.ndarray]:
    """Add clicks of ``size`` times the local second difference (RMS), each in one channel."""
    x, rate = song.samples.astype(np.int64), song.sample_rate_hz
    first, half = int(2 * START_SECONDS * rate), int(0.005 * rate)
    gap = (song.frames - 2 * first) / CLICKS
    at = (first + gap * (np.arange(CLICKS) + rng.uniform(0.2, 0.8, CLICKS))).astype(int)
    for frame in at:
        channel = rng.integers(x.shape[1])
        local = np.diff(song.samples[frame - half : frame + half, channel].astype(float), 2)
        height = max(round(size * np.sqrt(np.mean(local**2))), 1)
        x[frame, channel] += height * rng.choice([-1, 1])
    samples = np.clip(x, -32768, 32767).astype(np.int16)
    return Song(samples=samples, sample_rate_hz=rate, name=song.name), at


def code_length_score(song: Song) -> np.ndarray:
    bits = CASCADE.forecast(song).bits
    return excess(bits, song.samples.astype(float), song.sample_rate_hz)[1]


def ar_score(song: Song) -> np.ndarray:
    """|residual| / local deviation, the larger one of the channels; least squares per window."""
    length = int(WINDOW_SECONDS * song.sample_rate_hz)
    scores = np.zeros(song.samples.shape)
    for c, x in enumerate(song.samples.T.astype(float)):
        for start in range(ORDER, len(x), length):
            stop = min(start + length, len(x))
            past = np.lib.stride_tricks.sliding_window_view(x[start - ORDER : stop - 1], ORDER)
            target = x[start:stop]
            gram = past.T @ past + 1e-3 * np.eye(ORDER)
            residual = target - past @ np.linalg.solve(gram, past.T @ target)
            scores[start:stop, c] = np.abs(residual) / max(residual.std(), 0.3)
    return np.asarray(scores.max(axis=1))


METHODS: dict[str, Callable[[Song], np.ndarray]] = {
    "code length": code_length_score,
    "AR(32)": ar_score,
}


if __name__ == "__main__":
    raise SystemExit(main())

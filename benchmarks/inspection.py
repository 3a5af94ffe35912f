"""Clicks and splices that `songcast inspect` finds, against the residual of a windowed AR(32).

Plants 60 clicks of one sample in an excerpt from the middle of each song, and joins 16 passages of
about a second. The thresholds of the recall are set on the same excerpt without clicks; an event
within 2 ms of a click finds it. Frames beside clipped samples do not count, for both methods.

    .venv/bin/python benchmarks/inspection.py song.mp3 other.flac
"""

import argparse
from collections import Counter
from pathlib import Path

import numpy as np

import songcast
from filter_bank import excerpt
from songcast.audio.songs import Song, read_song
from songcast.inspection.events import EventFinder, combined, excess, matched, peaks
from songcast.report.console import note, print_json, print_table

SIZES, RATES, CLICKS, PASSAGES = (1, 2, 4, 8), (1.0, 0.1), 60, 16
NEAR_SECONDS, MERGE_SECONDS, START_SECONDS = 0.002, 0.005, 0.25
ORDER, WINDOW_SECONDS = 32, 0.05
METHODS = ("songcast", "AR(32)")
CASCADE = songcast.load("cascade")
Kinds = dict[str, Counter[str]]  # planted: reported as


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("songs", metavar="SONG", nargs="+", type=Path)
    parser.add_argument("--seconds", type=float, default=16.0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found, kinds, alarms, minutes = {}, Kinds(), {}, 0.0
    for path in arguments.songs:
        name = f"{path.parent.name}/{path.stem}"
        song = excerpt(path, arguments.seconds)
        minutes += song.frames / song.sample_rate_hz / 60
        found[name], alarms[name] = recall(song, kinds)
        count(kinds, "splice", *spliced(read_song(path)))
        note(f"{name}: {found[name].round(2).tolist()}, {alarms[name]} false events")
    found["mean"] = np.mean(list(found.values()), axis=0)
    if arguments.json:
        recalls = {name: values.tolist() for name, values in found.items()}
        print_json({"recall": recalls, "kinds": kinds, "false": alarms, "minutes": minutes})
        return 0
    rows = [
        [name, method, f"{rate:g}", *(f"{value:.2f}" for value in values[m, r])]
        for name, values in found.items()
        for m, method in enumerate(METHODS)
        for r, rate in enumerate(RATES)
    ]
    print_table(["song", "method", "false alarms per s", *map(str, SIZES)], rows, left=2)
    print(f"false events of songcast inspect: {sum(alarms.values())} in {minutes:.1f} min")
    words = ("click", "splice", "missed")
    rows = [[str(name), *(str(counts[w]) for w in words)] for name, counts in kinds.items()]
    print_table(["planted", *words], rows)
    return 0


def recall(song: Song, kinds: Kinds) -> tuple[np.ndarray, int]:
    """Return the share of clicks that are found: (methods, false-alarm rates, sizes).

    Also the number of events in the excerpt without clicks; adds to ``kinds`` what the clicks of
    each size were reported as.
    """
    rate, frames = song.sample_rate_hz, song.frames
    start, near = int(START_SECONDS * rate), int(NEAR_SECONDS * rate)
    result = np.empty((len(METHODS), len(RATES), len(SIZES)))
    bits = CASCADE.forecast(song).bits
    false = len(finder(song, bits).result())
    heights = []
    for score in scores(song, bits):
        at = events(score, float(np.quantile(score, 0.95)), start, rate)
        heights.append(np.sort(score[at])[::-1])
    for s, size in enumerate(SIZES):
        damaged, at = plant(song, size, np.random.default_rng(size))
        bits = CASCADE.forecast(damaged).bits
        count(kinds, f"click, {size}", damaged, at, bits)
        for m, values in enumerate(scores(damaged, bits)):
            for r, alarms in enumerate(RATES):
                threshold = heights[m][int(alarms * (frames - start) / rate)]
                times = np.array([-frames, *events(values, threshold, start, rate)])
                distance = np.abs(times[:, None] - at).min(axis=0)
                result[m, r, s] = np.mean(distance <= near)
    return result, false


def finder(song: Song, bits: np.ndarray) -> EventFinder:
    found = EventFinder(song.sample_rate_hz, song.channels)
    found.add(song.samples, bits)
    return found


def count(kinds: Kinds, name: str, song: Song, at: np.ndarray, bits: np.ndarray) -> None:
    """Count as what the planted events at the frames ``at`` are reported."""
    found = finder(song, bits).result()
    counts = kinds.setdefault(name, Counter(click=0, splice=0, missed=0))
    for seconds in at / song.sample_rate_hz:
        near = [event for event in found if abs(event["seconds"] - seconds) <= NEAR_SECONDS]
        counts[max(near, key=lambda e: e["strength"])["kind"] if near else "missed"] += 1


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


def spliced(song: Song) -> tuple[Song, np.ndarray, np.ndarray]:
    """Join passages from anywhere in the song; return it, the first frames, and its bits."""
    rng, rate = np.random.default_rng(7), song.sample_rate_hz
    lengths = (rate * rng.uniform(0.6, 1.4, PASSAGES)).astype(int)
    starts = [rng.integers(0, song.frames - length) for length in lengths]
    passages = [song.samples[a : a + n] for a, n in zip(starts, lengths, strict=True)]
    joined = Song(samples=np.concatenate(passages), sample_rate_hz=rate, name=song.name)
    return joined, np.cumsum(lengths)[:-1], CASCADE.forecast(joined).bits


def scores(song: Song, bits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the score of each frame by both methods."""
    x = song.samples.astype(float)
    own = combined(matched(x), excess(bits, x, song.sample_rate_hz), x)
    return own, combined(ar_score(song), np.zeros(len(x)), x)


def ar_score(song: Song) -> np.ndarray:
    """|residual| / local deviation, (frames, channels); least squares per window."""
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
    return scores


if __name__ == "__main__":
    raise SystemExit(main())

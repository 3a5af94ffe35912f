"""Continuations: distance from the true song, and speed.

Continues each song at 50, 70 and 90 % of its length, with the model, with its blend alone
(``no network``) and with every baseline, and prints the means by horizon. ``--long`` also
generates 60 s with three seeds, and 10 minutes of the first song, and checks them. ``--fit``
fits the weights of the blends in ``continuation/level_model.py`` instead. Songs are files or
folders; twelve or more that training has not seen:

    apt-get download wesnoth-1.16-music singularity-music warzone2100-music \\
        fretsonfire-songs-muldjord fretsonfire-songs-sectoid
    for package in *.deb; do dpkg-deb -x "$package" music; done
    .venv/bin/python benchmarks/continuation.py models/continuation music

Times are CPU seconds of this process; run it with OMP_NUM_THREADS=1.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from songcast.audio.songs import Song, read_song
from songcast.continuation.baselines import BASELINES
from songcast.continuation.level_model import (
    BASIS,
    SOFTNESS_DB,
    SOURCES,
    blend_basis,
)
from songcast.continuation.levels import band_levels, window_frames
from songcast.continuation.model import ContinuationModel
from songcast.continuation.prompt import Prompt
from songcast.continuation.retrieval import Retrieval, mono
from songcast.continuation.settings import LevelSettings
from songcast.evaluation import spectral
from songcast.evaluation.summary import HORIZONS_SECONDS
from songcast.training.continuation import Cut, hop_weights

SUFFIXES = {".wav", ".flac", ".ogg", ".opus", ".mp3"}
SHARES = (0.5, 0.7, 0.9)
SECONDS, LONGEST_SECONDS = 10.0, 300.0
MEASURES = {
    "log-mel distance, dB": spectral.log_mel_distance_db,
    "onset correlation": spectral.onset_correlation,
    "chroma similarity": spectral.chroma_similarity,
}
PASSAGES = LevelSettings().passages
# Cuts of each song to which the blends are fitted, iterations, and the ridge penalty.
FIT_CUTS, FIT_ITERATIONS, FIT_PENALTY = 10, 8, 3000.0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="bundle of a continuation model")
    parser.add_argument("songs", type=Path, nargs="+", help="files or folders")
    parser.add_argument("--every", type=int, default=1, help="use every Nth file (1)")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--fit", action="store_true")
    arguments = parser.parse_args()
    files = [
        file
        for path in arguments.songs
        for file in (sorted(path.rglob("*")) if path.is_dir() else [path])
        if file.suffix in SUFFIXES and file.is_file()
    ][:: arguments.every]
    if arguments.fit:
        fit(files)
        return 0
    model = ContinuationModel.load(arguments.model)
    models = {"continuation": model, "no network": model.without_network(), **model.baselines()}
    rows: dict[str, list[list[list[float]]]] = {}
    for file in files:
        song = read_song(file)
        samples = song.samples[: round(LONGEST_SECONDS * song.sample_rate_hz)]
        for share in SHARES:
            frames = round(SECONDS * song.sample_rate_hz)
            cut = min(round(share * len(samples)), len(samples) - frames)
            if cut < frames // 2:
                continue
            prompt = Prompt(samples[:cut], song.sample_rate_hz)
            tracks = {
                name: each.generate(prompt, frames, arguments.temperature, 0)
                for name, each in models.items()
            }
            tracks |= {name: baseline(prompt, frames) for name, baseline in BASELINES.items()}
            true = samples[cut : cut + frames]
            for name, track in tracks.items():
                rows.setdefault(name, []).append(measure(true, track, song.sample_rate_hz))
        if arguments.long:
            check_long(model, song, 60.0, (0, 1, 2))
            if file == files[0]:
                check_long(model, song, 600.0, (0,))
        print(file.name, file=sys.stderr)
    print(f"{len(rows['paste'])} continuations; by horizon:", *HORIZONS_SECONDS)
    print("measures:", *MEASURES)
    for name, each in rows.items():
        means = np.mean(each, axis=0)
        print(f"{name:14}", " | ".join(" ".join(f"{v:6.3f}" for v in row) for row in means))
    return 0


def measure(true: np.ndarray, track: np.ndarray, sample_rate_hz: int) -> list[list[float]]:
    """Return each measure by horizon; NaN for rhythm and harmony of the shortest one."""
    result = []
    for function in MEASURES.values():
        row = []
        for start, stop in HORIZONS_SECONDS:
            part = slice(round(start * sample_rate_hz), round(stop * sample_rate_hz))
            a, b = spectral.mono(true[part]), spectral.mono(track[part])
            short = stop - start < 0.5 and function is not spectral.log_mel_distance_db
            row.append(float("nan") if short else function(a, b, sample_rate_hz))
        result.append(row)
    return result


def fit(files: Sequence[Path]) -> None:
    """Print the weights of both blends, fitted to cuts of the songs, as rows of the tables."""
    cuts = [cut for i, file in enumerate(files) for cut in past_cuts(read_song(file), i)]
    settings = ("BLEND", SOFTNESS_DB, PASSAGES), ("LINEAR_BLEND", np.inf, 8)
    for name, softness_db, passages in settings:
        print(name)
        for row in fit_blend(cuts, softness_db, passages):
            print("        [" + ", ".join(f"{weight:.2f}" for weight in row) + "],")


def past_cuts(song: Song, seed: int) -> list[Cut]:
    """Return random cuts of the song, with passages from before each cut only."""
    rate, rng = song.sample_rate_hz, np.random.default_rng(seed)
    samples = song.samples[: round(LONGEST_SECONDS * rate)]
    hop, retrieval = window_frames(rate) // 2, Retrieval(samples, rate)
    table = band_levels(mono(samples), rate)
    cuts = []
    for frame in rng.uniform(0.25 * len(samples), len(samples) - SECONDS * rate, FIT_CUTS):
        at = int(frame) // hop
        found = retrieval.find(at * hop, PASSAGES, until=len(samples))
        found = [retrieval.aligned(at * hop, place) for place in found]
        places = tuple((round(place.frame / hop), place.distance_db) for place in found)
        stop = min(at + round(SECONDS * rate / hop), len(table))
        cuts.append(Cut(table=table, hop=at, places=places, stop=stop, hops_per_second=rate / hop))
    return [cut for cut in cuts if cut.places]


def fit_blend(cuts: Sequence[Cut], softness_db: float, passages: int) -> np.ndarray:
    """Return the weights of a blend with the least absolute error, (SOURCES, 2 BASIS).

    By iteratively reweighted least squares. Without ``softness_db``, they do not depend on the
    distance.
    """
    rows, targets, weights, rng = [], [], [], np.random.default_rng(0)
    for cut in cuts:
        made = cut.arrays(None, passages, softness_db)
        if made is None:
            continue
        _, sources, true, distance_db = made
        picked = np.unique(np.geomspace(1, len(true), 48).astype(int) - 1)
        bands = rng.choice(true.shape[1], 16, replace=False)
        distance_db = 0.0 if np.isinf(softness_db) else distance_db
        functions = blend_basis(0, len(true), cut.hops_per_second, distance_db)[picked]
        products = sources[np.ix_(picked, bands)][..., None] * functions[:, None, None, :]
        rows.append(products.reshape(-1, SOURCES * 2 * BASIS))
        targets.append(true[np.ix_(picked, bands)].ravel())
        weight = hop_weights(len(true), cut.hops_per_second)[picked]
        weights.append(np.repeat(weight * np.gradient(picked.astype(float)), len(bands)))
    x, y = np.concatenate(rows).astype(np.float64), np.concatenate(targets)
    weight = np.concatenate(weights)
    penalty = FIT_PENALTY * np.mean(weight) * np.eye(x.shape[1])
    solution = np.zeros(x.shape[1])
    for _ in range(FIT_ITERATIONS):
        weighted = x * (weight / np.maximum(np.abs(y - x @ solution), 0.5))[:, None]
        solution = np.linalg.solve(weighted.T @ x + penalty, weighted.T @ y)
    return solution.reshape(SOURCES, 2 * BASIS)


def check_long(model: ContinuationModel, song: Song, seconds: float, seeds: Sequence[int]) -> None:
    """Generate long continuations and print level, silence, clipping, joins and speed of each."""
    rate = song.sample_rate_hz
    end = spectral.level_db(spectral.mono(song.samples[-10 * rate :]))
    limit = np.percentile(spectral.onsets(spectral.mono(song.samples), rate), 95)
    for seed in seeds:
        began = time.process_time()
        stream = model.stream_song(song, seconds, seed=seed)
        first = next(stream)
        opened = time.process_time()
        track = np.concatenate([first, *stream])
        took = time.process_time() - opened
        mono = spectral.mono(track)
        onsets = spectral.onsets(mono, rate)
        joins = [i for i in stream.path.joins if i < len(onsets) - 6]
        loud = sum(onsets[max(i - 2, 0) : i + 6].mean() > limit for i in joins)
        print(
            f"{song.name}: {seconds:g} s, seed {seed}, "
            f"level {spectral.level_db(mono) - end:+.1f} dB, "
            f"silent {spectral.silent_share(mono, rate):.2f}, "
            f"clipped {spectral.clipped_share(track):.5f}, "
            f"repeated {stream.path.repeated_share():.2f}, {len(joins)} joins, {loud} above the "
            f"95th percentile of onsets; first block {1000 * (opened - began):.0f} ms, "
            f"{seconds / took:.0f} x real time"
        )


if __name__ == "__main__":
    sys.exit(main())

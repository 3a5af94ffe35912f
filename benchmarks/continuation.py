"""Continuations: distance from the true song, and speed.

Continues each song at 50, 70 and 90 % of its length, with the model, with its blend alone
(``no network``) and with every baseline, and prints the means by horizon. ``--long`` generates
60 s and 10 minutes of each song with three seeds instead, and checks them. Songs are files or
folders. These are measured, except those that the pretrained weights were fitted to:

    apt-get download wesnoth-1.16-music singularity-music warzone2100-music \\
        fretsonfire-songs-muldjord fretsonfire-songs-sectoid
    for package in *.deb; do dpkg-deb -x "$package" music; done
    .venv/bin/python benchmarks/continuation.py models/continuation music

``--fit`` fits the weights instead, to all songs but ``HELD_OUT``, and writes
src/songcast/continuation/pretrained.npz. It takes about half an hour and 6 GB of memory.

Times are CPU seconds of this process; run it with OMP_NUM_THREADS=1.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from songcast.audio.songs import Song, read_song
from songcast.config import ContinuationParams
from songcast.continuation.baselines import BASELINES
from songcast.continuation.level_model import (
    BASIS,
    PASSAGES,
    PRETRAINED,
    SOFTNESS_DB,
    SOURCES,
    blend_basis,
)
from songcast.continuation.levels import band_levels, window_frames
from songcast.continuation.model import ContinuationModel
from songcast.continuation.prompt import Prompt
from songcast.continuation.retrieval import Retrieval, mono
from songcast.evaluation import spectral
from songcast.evaluation.summary import HORIZONS_SECONDS
from songcast.training.continuation import (
    BLEND_ERROR,
    TRAIN_ERROR,
    Cut,
    build_network,
    fit_levels,
    hop_weights,
    network_arrays,
)

SUFFIXES = {".wav", ".flac", ".ogg", ".opus", ".mp3"}
SECONDS, LONGEST_SECONDS = 10.0, 300.0
FIT = ContinuationParams(
    holdout_seconds=SECONDS,
    cuts=1,
    epochs=10,
    steps_per_epoch=600,
    batch_size=8,
    learning_rate=2e-3,
    seed=0,
)
SHARES = (0.5, 0.7, 0.9)
MEASURES = {
    "log-mel distance, dB": spectral.log_mel_distance_db,
    "onset correlation": spectral.onset_correlation,
    "chroma similarity": spectral.chroma_similarity,
}
# Ends of the paths of the songs that are measured and never fitted to.
HELD_OUT = (
    "music/battle",
    "music/casualties_of_war",
    "music/elvish-theme",
    "music/heroes_rite",
    "music/knolls",
    "music/siege_of_laurelmor",
    "music/A New Journey",
    "music/Coherence",
    "music/Media Threat",
    "aftermath_soundtrack/track18",
    "legacy_soundtrack/track10",
    "original_soundtrack/track1",
    "chaos_god/song",
    "Feelings/song",
)
# Single tracks of songs, and songs that are too short.
LEFT_OUT, LEAST_SECONDS = "guitar", 60.0
# Cuts of each song with all of its past, and with a past of so many seconds.
LONG_CUTS, SHORT_CUTS, SHORT_SECONDS = 40, 24, (4.0, 60.0)
# Bands of each cut, and hops to which the blend is fitted; iterations, and the ridge penalty.
FIT_BANDS, FIT_HOPS, FIT_ITERATIONS, FIT_PENALTY = 16, 32, 8, 3000.0


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
        if file.suffix in SUFFIXES and file.is_file() and file.stem != LEFT_OUT
    ]
    held_out = [f for f in files if f.with_suffix("").as_posix().endswith(HELD_OUT)]
    if arguments.fit:
        fit([file for file in files if file not in held_out])
        return 0
    files = (held_out or files)[:: arguments.every]
    model = ContinuationModel.load(arguments.model)
    if arguments.long:
        for file in files:
            for seconds in (60.0, 600.0):
                check_long(model, read_song(file), seconds, (0, 1, 2))
        return 0
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


class Example:
    """The arrays of some bands of a cut, computed once, in half precision."""

    def __init__(
        self,
        cut: Cut,
        rng: np.random.Generator,
        passages: int = PASSAGES,
        softness_db: tuple[float, float] = SOFTNESS_DB,
    ) -> None:
        self.hops_per_second = cut.hops_per_second
        features, sources, true, self.distance_db = cut.arrays(None, passages, softness_db) or (
            *np.empty((3, 0, 64, 0), np.float32),
            0.0,
        )
        bands = rng.choice(64, FIT_BANDS, replace=False)
        self.kept = [array[:, bands].astype(np.float16) for array in (features, sources, true)]

    def arrays(self, _: object = None) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """Return the same as ``Cut.arrays``."""
        features, sources, true = (array.astype(np.float32) for array in self.kept)
        return features, sources, true, self.distance_db


def fit(files: Sequence[Path]) -> None:
    """Fit both blends and the network to cuts of the songs and write ``PRETRAINED``."""
    rng = np.random.default_rng(0)
    examples: list[Example] = []
    plain: list[Example] = []
    for file in files:
        song = read_song(file)
        if song.frames < LEAST_SECONDS * song.sample_rate_hz:
            continue
        cuts = past_cuts(song, rng)
        examples += [Example(cut, rng) for cut in cuts]
        plain += [Example(cut, rng, 8, (np.inf, np.inf)) for cut in cuts[:LONG_CUTS:4]]
        print(f"{file.stem}: {len(examples)} cuts", file=sys.stderr)
    examples = [example for example in examples if len(example.kept[0])]
    blend = fit_blend(examples, depends_on_distance=True)
    linear = fit_blend([e for e in plain if len(e.kept[0])], depends_on_distance=False)
    arrays, _ = fit_levels(
        examples,  # type: ignore[arg-type]
        {"blend": blend, **network_arrays(build_network())},
        FIT,
        on_epoch=lambda epoch, row: print(epoch, row[BLEND_ERROR], row[TRAIN_ERROR]),
        on_step=lambda _: None,
    )
    np.savez_compressed(PRETRAINED, allow_pickle=False, linear_blend=linear, **arrays)


def past_cuts(song: Song, rng: np.random.Generator) -> list[Cut]:
    """Return random cuts of the song, with passages from before each cut only."""
    rate = song.sample_rate_hz
    samples, hop = song.samples[: round(LONGEST_SECONDS * rate)], window_frames(rate) // 2
    whole, table = Retrieval(samples, rate), band_levels(mono(samples), rate)
    last, cuts = len(samples) - SECONDS * rate, []
    for number, frame in enumerate(rng.uniform(0.2 * len(samples), last, LONG_CUTS + SHORT_CUTS)):
        at, first, retrieval = int(frame) // hop, 0, whole
        if number >= LONG_CUTS:
            seconds = np.exp(rng.uniform(*np.log(SHORT_SECONDS)))
            first = max(at - round(seconds * rate) // hop, 0)
            retrieval = Retrieval(samples[first * hop : at * hop], rate)
        now = (at - first) * hop
        found = retrieval.find(now, PASSAGES, until=len(samples))
        found = [retrieval.aligned(now, place) for place in found]
        cut = Cut(
            table=table[first:],
            hop=at - first,
            places=tuple((round(place.frame / hop), place.distance_db) for place in found),
            stop=min(at + round(SECONDS * rate / hop), len(table)) - first,
            hops_per_second=rate / hop,
        )
        cuts += [cut] if found else []
    return cuts


def fit_blend(examples: Sequence[Example], *, depends_on_distance: bool) -> np.ndarray:
    """Return the weights of a blend with the least absolute error, (SOURCES, 2 BASIS) float32.

    By iteratively reweighted least squares.
    """
    rows, targets, weights = [], [], []
    for example in examples:
        _, sources, true, distance_db = example.arrays()
        hops = len(true)
        picked = np.unique(np.geomspace(1, hops, FIT_HOPS).astype(int) - 1)
        distance_db *= depends_on_distance
        functions = blend_basis(0, hops, example.hops_per_second, distance_db)[picked]
        products = sources[picked][..., None] * functions[:, None, None, :]
        rows.append(products.reshape(-1, SOURCES * 2 * BASIS))
        targets.append(true[picked].ravel())
        weight = hop_weights(hops, example.hops_per_second)[picked]
        weights.append(np.repeat(weight * np.gradient(picked.astype(float)), FIT_BANDS))
    x, y, weight = np.concatenate(rows), np.concatenate(targets), np.concatenate(weights)
    penalty = FIT_PENALTY * np.mean(weight) * np.eye(x.shape[1])
    solution = np.zeros(x.shape[1], np.float32)
    for _ in range(FIT_ITERATIONS):
        certainty = weight / np.maximum(np.abs(y - x @ solution), 0.5)
        weighted = x * certainty[:, None].astype(np.float32)
        left = (weighted.T @ x).astype(np.float64) + penalty
        solution = np.linalg.solve(left, weighted.T @ y).astype(np.float32)
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

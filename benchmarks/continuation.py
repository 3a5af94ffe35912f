"""Continuations: distance from the true song, and speed.

Continues each song at 50, 70 and 90 % of its length, with the model and with every baseline, and
prints the means by horizon. ``--long`` also generates 60 s, and 10 minutes of the first song, and
checks them. Songs are files or folders; twelve or more that training has not seen:

    apt-get download wesnoth-1.16-music singularity-music warzone2100-music
    for package in *.deb; do dpkg-deb -x "$package" music; done
    .venv/bin/python benchmarks/continuation.py models/continuation music

Times are CPU seconds of this process.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from songcast.audio.songs import Song, read_song
from songcast.continuation.model import ContinuationModel
from songcast.continuation.prompt import Prompt
from songcast.evaluation import spectral
from songcast.evaluation.continuations import measure_tracks, tracks_of
from songcast.evaluation.summary import HORIZONS_SECONDS, summarise_continuations

SUFFIXES = {".wav", ".flac", ".ogg", ".opus", ".mp3"}
SHARES = (0.5, 0.7, 0.9)
SECONDS, LONGEST_SECONDS = 10.0, 300.0
MEASURES = ("log_mel_distance_db", "onset_correlation", "chroma_similarity")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="bundle of a continuation model")
    parser.add_argument("songs", type=Path, nargs="+", help="files or folders")
    parser.add_argument("--every", type=int, default=1, help="use every Nth file (1)")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--long", action="store_true")
    arguments = parser.parse_args()
    model = ContinuationModel.load(arguments.model)
    files = [
        file
        for path in arguments.songs
        for file in (sorted(path.rglob("*")) if path.is_dir() else [path])
        if file.suffix in SUFFIXES and file.is_file()
    ][:: arguments.every]
    measured = {}
    for file in files:
        song = read_song(file)
        samples = song.samples[: round(LONGEST_SECONDS * song.sample_rate_hz)]
        for share in SHARES:
            frames = round(SECONDS * song.sample_rate_hz)
            cut = min(round(share * len(samples)), len(samples) - frames)
            if cut < frames // 2:
                continue
            prompt = Prompt(samples[:cut], song.sample_rate_hz)
            tracks = tracks_of(model, prompt, frames, arguments.temperature)
            true = samples[cut : cut + frames]
            measured[f"{file.name} {share}"] = measure_tracks(true, tracks, song.sample_rate_hz)
            print(file.name, share, file=sys.stderr)
        if arguments.long:
            check_long(model, song, 600.0 if file == files[0] else 60.0)
    print(f"{len(measured)} continuations; by horizon:", *HORIZONS_SECONDS)
    for name, means in summarise_continuations(measured).items():
        values = [
            " ".join("    -" if v is None else f"{v:5.2f}" for v in means[measure])
            for measure in MEASURES
        ]
        print(f"{name:14}", " | ".join(values))
    return 0


def check_long(model: ContinuationModel, song: Song, seconds: float) -> None:
    """Generate a long continuation and print its level, silence, clipping, joins and speed."""
    began = time.process_time()
    stream = model.stream_song(song, seconds)
    first = next(stream)
    opened = time.process_time()
    track = np.concatenate([first, *stream])
    took = time.process_time() - opened
    rate = song.sample_rate_hz
    mono, end = spectral.mono(track), spectral.mono(song.samples[-10 * rate :])
    onsets = spectral.onsets(mono, rate)
    limit = np.percentile(spectral.onsets(spectral.mono(song.samples), rate), 95)
    joins = [onsets[max(i - 2, 0) : i + 6].mean() for i in stream.path.joins if i < len(onsets) - 6]
    level = spectral.level_db(mono) - spectral.level_db(end)
    silent, clipped = spectral.silent_share(mono, rate), spectral.clipped_share(track)
    loud = sum(strength > limit for strength in joins)
    print(
        f"{song.name}: {seconds:g} s, level {level:+.1f} dB, silent {silent:.2f}, "
        f"clipped {clipped:.5f}, {len(joins)} joins, {loud} above the 95th percentile of onsets; "
        f"first block {1000 * (opened - began):.0f} ms, {seconds / took:.0f} x real time"
    )


if __name__ == "__main__":
    sys.exit(main())

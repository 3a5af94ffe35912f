"""Bits per sample of every forecaster and of lossless codecs, on the same songs.

A forecaster's bits are a code length, so they stand beside what a codec writes: 8 × bytes of
the file / samples. Every sample counts, cold start included, and a mono song stays mono. Codecs
(flac, wavpack, mac, ofr, sac) are used where their programs are on PATH. Without songs, the
prepared ones are measured; a fitted model has learned from the first part of those, so name
other files to see how it does on the unknown.

    .venv/bin/python benchmarks/accuracy.py song.wav other.flac
"""

import argparse
import json
import logging
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from songcast.audio.songs import Song, open_song, read_song, write_song
from songcast.bundle import MANIFEST
from songcast.data.corpus import Corpus
from songcast.errors import SongcastError
from songcast.files import MODELS, PREPARED, root
from songcast.forecasting.forecaster import Forecaster
from songcast.forecasting.keras_backend import import_keras
from songcast.forecasting.loading import load_forecaster as load
from songcast.report.console import note, number, print_table

ALWAYS = ("persistence", "cascade")
FITTED = ("ridge", "notebook", "train", "retrain")
Found = dict[str, Any]


@dataclass(frozen=True)
class Codec:
    """A lossless coder: its program, its files' suffix, and the arguments that code a wav."""

    program: str
    suffix: str
    arguments: Callable[[Path, Path], list[str | Path]]


CODECS = {
    "flac -8": Codec(
        "flac",
        ".flac",
        lambda wav, out: ["-8", "-s", "-f", "--no-padding", "--no-seektable", "-o", out, wav],
    ),
    "wavpack -hhx": Codec(
        "wavpack", ".wv", lambda wav, out: ["-hh", "-x", "-q", "-y", wav, "-o", out]
    ),
    "mac -c5000": Codec("mac", ".ape", lambda wav, out: [wav, out, "-c5000"]),
    "ofr max": Codec(
        "ofr", ".ofr", lambda wav, out: ["--encode", "--preset", "max", wav, "--output", out]
    ),
    "sac --normal": Codec("sac", ".sac", lambda wav, out: ["--encode", "--normal", wav, out]),
}


def main() -> int:
    arguments = parse_arguments()
    for path in arguments.songs:
        with open_song(path):
            pass  # a wrong name is told before the long work
    import_keras()
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it counts our warm-up as waste
    models = load_models(arguments.model)
    warm_up(models)
    songs: dict[str, Found] = {}
    for song in open_songs(arguments.songs, arguments.seconds):
        note(f"{song.name}: {song.seconds:.1f} s, {song.channels} ch, {song.sample_rate_hz} Hz")
        songs[song.name] = {
            "frames": song.frames,
            "channels": song.channels,
            "sample_rate_hz": song.sample_rate_hz,
            "coders": {
                **forecast_all(models, song, alone=arguments.separately),
                **encode_all(song, arguments.without_codecs),
            },
        }
    summary = summarise(songs)
    if arguments.json:
        print(json.dumps({"summary": summary, "songs": songs}, indent=2, allow_nan=False))
    else:
        print_results(songs, summary, alone=arguments.separately)
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("songs", metavar="SONG", nargs="*", help="default: the prepared songs")
    parser.add_argument(
        "--model",
        metavar="URI",
        action="append",
        help="as in `songcast score`; may be repeated; default: persistence, cascade, and the "
        "bundles of models/ that are there",
    )
    parser.add_argument("--seconds", type=float, help="measure only the first seconds of each")
    parser.add_argument(
        "--separately",
        action="store_true",
        help="let each forecaster hear alone, so that CPU is its own (slower)",
    )
    parser.add_argument("--without-codecs", action="store_true", help="forecasters only")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")
    return parser.parse_args()


def load_models(uris: list[str] | None) -> dict[str, Forecaster]:
    """Return the forecasters by name; say which of the usual ones are not there."""
    if uris:
        return {uri: load(uri) for uri in uris}
    models = {name: load(name) for name in ALWAYS}
    for name in FITTED:
        folder = root() / MODELS / name
        if (folder / MANIFEST).is_file():
            models[name] = load(folder)
        else:
            note(f"{name} is left out: {folder} is no bundle (`make run` makes it)")
    return models


def warm_up(models: dict[str, Forecaster]) -> None:
    """Compile what is compiled at first use, outside all timing."""
    from songcast.evaluation.forecasts import forecast_passage

    for channels in (1, 2):
        silence = Song(
            samples=np.zeros((64, channels), np.int16), sample_rate_hz=44100, name="silence"
        )
        forecast_passage(models, silence, 0, silence.frames)


def open_songs(paths: list[str], seconds: float | None) -> Iterator[Song]:
    """Yield the named songs, or the prepared ones; cut to their first ``seconds``."""
    songs = map(read_song, paths) if paths else (p.song() for p in Corpus.open(root() / PREPARED))
    for song in songs:
        frames = song.frames if seconds is None else round(seconds * song.sample_rate_hz)
        yield Song(
            samples=song.samples[:frames], sample_rate_hz=song.sample_rate_hz, name=song.name
        )


def forecast_all(models: dict[str, Forecaster], song: Song, *, alone: bool) -> dict[str, Found]:
    """Measure each forecaster on the whole song.

    Those with the same experts hear them once, together, unless ``alone``; ``cpu_seconds`` is
    that of the pass, ``shared_by`` how many took part in it.
    """
    from songcast.evaluation.forecasts import forecast_passage, measure

    found: dict[str, Found] = {}
    for names in groups(models, alone=alone):
        start = time.process_time()
        forecasts = forecast_passage({n: models[n] for n in names}, song, 0, song.frames)
        spent = time.process_time() - start
        for name, forecast in forecasts.items():
            found[name] = {**measure(forecast), "cpu_seconds": spent, "shared_by": len(names)}
    return {name: found[name] for name in models}


def groups(models: dict[str, Forecaster], *, alone: bool) -> list[list[str]]:
    """Names of the forecasters that share experts."""
    from songcast.evaluation.forecasts import front_end_of

    together: dict[Any, list[str]] = {}
    for name, model in models.items():
        front_end = None if alone else front_end_of(model)
        together.setdefault(name if front_end is None else front_end, []).append(name)
    return list(together.values())


def encode_all(song: Song, without: bool) -> dict[str, Found]:
    """Code the song with every codec on PATH; one that fails is left out, and said so."""
    found: dict[str, Found] = {}
    with tempfile.TemporaryDirectory() as scratch:
        wav = Path(scratch) / "song.wav"
        write_song(song, wav)
        for name, codec in CODECS.items():
            if without or shutil.which(codec.program) is None:
                continue
            out = wav.with_suffix(codec.suffix)
            before = children_cpu_seconds()
            command = [codec.program, *codec.arguments(wav, out)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode or not out.is_file():
                said = (done.stderr or done.stdout).strip().splitlines() or ["no reason"]
                note(f"{name} failed on {song.name}: {said[-1]}")
                continue
            bits = 8.0 * out.stat().st_size / song.samples.size
            spent = children_cpu_seconds() - before
            found[name] = {"bits_per_sample": bits, "cpu_seconds": spent, "shared_by": 1}
    return found


def children_cpu_seconds() -> float:
    """CPU time of all programs that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def summarise(songs: dict[str, Found]) -> dict[str, Found]:
    """Means over the songs of each coder that managed all of them."""
    names = [name for song in songs.values() for name in song["coders"]]
    seconds = sum(song["frames"] / song["sample_rate_hz"] for song in songs.values())
    summary: dict[str, Found] = {}
    for name in dict.fromkeys(names):
        found = [song["coders"][name] for song in songs.values() if name in song["coders"]]
        if len(found) < len(songs):
            note(f"{name} has no mean: it did not manage every song")
            continue
        gains = [mean_gain_db(one) for one in found]
        known = [gain for gain in gains if gain is not None]
        summary[name] = {
            "bits_per_sample": fmean([one["bits_per_sample"] for one in found]),
            "prediction_gain_db": fmean(known) if known else None,
            "cpu_per_audio_second": sum(one["cpu_seconds"] for one in found) / seconds,
            "shared_by": found[0]["shared_by"],
        }
    return summary


def print_results(songs: dict[str, Found], summary: dict[str, Found], *, alone: bool) -> None:
    """Print one table: a row for each song, then means; a column for each coder."""
    names = list(dict.fromkeys(name for song in songs.values() for name in song["coders"]))
    rows = [
        [slug, *(number(song["coders"].get(name, {}).get("bits_per_sample"), 3) for name in names)]
        for slug, song in songs.items()
    ]
    for what, key, digits in (
        ("mean bits per sample", "bits_per_sample", 4),
        ("mean gain, dB", "prediction_gain_db", 2),
        ("CPU s per audio s", "cpu_per_audio_second", 3),
    ):
        rows.append([what, *(number(summary.get(name, {}).get(key), digits) for name in names)])
    print_table(["bits per sample", *names], rows)
    if not alone and any(entry["shared_by"] > 1 for entry in summary.values()):
        together = [name for name, entry in summary.items() if entry["shared_by"] > 1]
        print(f"CPU of {', '.join(together)}: of one pass that they share; see --separately.")
    missing = [n for n, codec in CODECS.items() if shutil.which(codec.program) is None]
    if missing:
        print(f"Not on PATH, so left out: {', '.join(missing)}.")


def mean_gain_db(found: Found) -> float | None:
    """Mean over the channels of one song; codecs have none."""
    known = [gain for gain in found.get("prediction_gain_db", ()) if gain is not None]
    return fmean(known) if known else None


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SongcastError as mistake:
        sys.exit(f"accuracy: {mistake}")

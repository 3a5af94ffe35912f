"""Bits per sample of every forecaster and of lossless codecs, on the same songs.

A forecaster's bits are a code length, so they compare with the size of a codec's file: 8 × bytes
/ samples. Every sample counts, cold start included, and a mono song stays mono. The codecs flac,
wavpack, mac, ofr and sac are used if their programs are on PATH. The default songs are the
prepared ones; the models were trained on the first part of these, so name other files to measure
unknown songs.

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

from songcast.audio.reading import open_song
from songcast.audio.songs import Song, read_song, write_song
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
Results = dict[str, Any]


@dataclass(frozen=True)
class Codec:
    """A lossless codec: its program, the suffix of its files, and the arguments to encode a WAV."""

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
            pass  # fail on a wrong name before the long work
    import_keras()
    logging.getLogger("tensorflow").setLevel(
        logging.ERROR
    )  # it warns about the retracing of our warm-up
    models = load_models(arguments.model)
    warm_up(models)
    songs: dict[str, Results] = {}
    for song in open_songs(arguments.songs, arguments.seconds):
        note(f"{song.name}: {song.seconds:.1f} s, {song.channels} ch, {song.sample_rate_hz} Hz")
        songs[song.name] = {
            "frames": song.frames,
            "channels": song.channels,
            "sample_rate_hz": song.sample_rate_hz,
            "coders": {
                **forecast_all(models, song, alone=arguments.separately),
                **({} if arguments.without_codecs else encode_all(song)),
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
    parser.add_argument("--seconds", type=float, help="measure only the first seconds of each song")
    parser.add_argument(
        "--separately",
        action="store_true",
        help="run each forecaster alone, to measure its CPU time (slower)",
    )
    parser.add_argument(
        "--without-codecs", action="store_true", help="measure only the forecasters"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")
    return parser.parse_args()


def load_models(uris: list[str] | None) -> dict[str, Forecaster]:
    """Return the forecasters by name; report which of the default ones are missing."""
    if uris:
        return {uri: load(uri) for uri in uris}
    models = {name: load(name) for name in ALWAYS}
    for name in FITTED:
        folder = root() / MODELS / name
        if (folder / MANIFEST).is_file():
            models[name] = load(folder)
        else:
            note(f"{name} is left out: {folder} is not a bundle (`make run` makes it)")
    return models


def warm_up(models: dict[str, Forecaster]) -> None:
    """Compile the functions that are compiled at first use, outside of all timing."""
    from songcast.evaluation.forecasts import measure_passages

    for channels in (1, 2):
        silence = Song(
            samples=np.zeros((64, channels), np.int16), sample_rate_hz=44100, name="silence"
        )
        measure_passages(models, silence, [(0, 0, silence.frames)])


def open_songs(paths: list[str], seconds: float | None) -> Iterator[Song]:
    """Yield the named or the prepared songs, cut to their first ``seconds``."""
    songs = map(read_song, paths) if paths else (p.song() for p in Corpus.open(root() / PREPARED))
    for song in songs:
        frames = song.frames if seconds is None else round(seconds * song.sample_rate_hz)
        yield Song(
            samples=song.samples[:frames], sample_rate_hz=song.sample_rate_hz, name=song.name
        )


def forecast_all(models: dict[str, Forecaster], song: Song, *, alone: bool) -> dict[str, Results]:
    """Measure each forecaster on the whole song.

    Forecasters with the same front end share one pass unless ``alone``. ``cpu_seconds`` is the CPU
    time of the pass, ``shared_by`` the number of forecasters in it.
    """
    from songcast.evaluation.forecasts import measure_passages

    results: dict[str, Results] = {}
    for names in groups(models, alone=alone):
        start = time.process_time()
        measured = measure_passages({n: models[n] for n in names}, song, [(0, 0, song.frames)])
        spent = time.process_time() - start
        for name, measures in measured.items():
            results[name] = {**measures, "cpu_seconds": spent, "shared_by": len(names)}
    return {name: results[name] for name in models}


def groups(models: dict[str, Forecaster], *, alone: bool) -> list[list[str]]:
    """Return the names of the forecasters, grouped by front end."""
    from songcast.evaluation.forecasts import front_end_of

    together: dict[Any, list[str]] = {}
    for name, model in models.items():
        front_end = None if alone else front_end_of(model)
        together.setdefault(name if front_end is None else front_end, []).append(name)
    return list(together.values())


def encode_all(song: Song) -> dict[str, Results]:
    """Encode the song with every codec on PATH; report a codec that fails and leave it out."""
    results: dict[str, Results] = {}
    with tempfile.TemporaryDirectory() as scratch:
        wav = Path(scratch) / "song.wav"
        write_song(song, wav)
        for name, codec in CODECS.items():
            if shutil.which(codec.program) is None:
                continue
            out = wav.with_suffix(codec.suffix)
            before = children_cpu_seconds()
            command = [codec.program, *codec.arguments(wav, out)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode or not out.is_file():
                lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
                note(f"{name} failed on {song.name}: {lines[-1]}")
                continue
            bits = 8.0 * out.stat().st_size / song.samples.size
            spent = children_cpu_seconds() - before
            results[name] = {"bits_per_sample": bits, "cpu_seconds": spent, "shared_by": 1}
    return results


def children_cpu_seconds() -> float:
    """Return the CPU time of all child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def summarise(songs: dict[str, Results]) -> dict[str, Results]:
    """Return the means over the songs of each coder that encoded all of them."""
    names = [name for song in songs.values() for name in song["coders"]]
    seconds = sum(song["frames"] / song["sample_rate_hz"] for song in songs.values())
    summary: dict[str, Results] = {}
    for name in dict.fromkeys(names):
        results = [song["coders"][name] for song in songs.values() if name in song["coders"]]
        if len(results) < len(songs):
            note(f"{name} has no mean: it failed on some songs")
            continue
        gains = [mean_gain_db(one) for one in results]
        known = [gain for gain in gains if gain is not None]
        summary[name] = {
            "bits_per_sample": fmean([one["bits_per_sample"] for one in results]),
            "prediction_gain_db": fmean(known) if known else None,
            "cpu_per_audio_second": sum(one["cpu_seconds"] for one in results) / seconds,
            "shared_by": results[0]["shared_by"],
        }
    return summary


def print_results(songs: dict[str, Results], summary: dict[str, Results], *, alone: bool) -> None:
    """Print a table with a row for each song, rows of means and a column for each coder."""
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
        print(f"CPU of {', '.join(together)}: of the pass that they share; see --separately.")
    missing = [n for n, codec in CODECS.items() if shutil.which(codec.program) is None]
    if missing:
        print(f"Not on PATH: {', '.join(missing)}.")


def mean_gain_db(results: Results) -> float | None:
    """Return the mean gain over the channels of one song; None for codecs."""
    known = [gain for gain in results.get("prediction_gain_db", ()) if gain is not None]
    return fmean(known) if known else None


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SongcastError as mistake:
        sys.exit(f"accuracy: {mistake}")

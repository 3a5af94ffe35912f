"""`songcast score`: prediction gain and bits per sample of songs and models."""

import argparse
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from songcast.audio.formats import printable
from songcast.audio.songs import SongWarning
from songcast.bundle import MANIFEST
from songcast.commands import loading
from songcast.evaluation.summary import finite
from songcast.forecasting.loading import bundle_folder
from songcast.registry import versions
from songcast.registry.models import Model
from songcast.registry.versions import CHAMPION
from songcast.report import console
from songcast.report.console import duration, note, number, print_table

GAINS = {1: ["gain dB"], 2: ["left dB", "right dB"]}


def run(arguments: argparse.Namespace) -> None:
    """Score the songs. Prints nothing on stdout if one of them fails."""
    seconds = loading.declared_seconds(arguments.songs)
    models = load_models(arguments.model)
    with (
        console.song_warnings_as_lines(),
        console.progress("", seconds * len(models), "s of song") as update,
    ):
        scores = [score_song(path, models, update) for path in arguments.songs]
    if arguments.json:
        console.print_json({"songs": scores})
    else:
        print_scores(scores)


def load_models(named: list[str] | None) -> dict[str, Model]:
    """Load the named models; by default those of champion, cascade, ridge, persistence that exist.

    Raises ``SongcastError`` for the first that fails.
    """
    if named:
        return {uri: loading.load_model(uri) for uri in dict.fromkeys(named)}
    uris = {CHAMPION: loading.CHAMPION_URI} | {n: n for n in ("cascade", "ridge", "persistence")}
    if not versions.get_alias(CHAMPION):
        note("no champion is registered yet, skipped: `make run` registers one")
        del uris[CHAMPION]
    if not (bundle_folder("ridge") / MANIFEST).is_file():
        note("ridge is not fitted yet, skipped: `make run` fits it")
        del uris["ridge"]
    return {name: loading.load_model(uri) for name, uri in uris.items()}


def score_song(path: str, models: Mapping[str, Model], update: loading.Update) -> dict[str, Any]:
    """Return one entry of the JSON document. Raises ``AudioError``."""
    forecasters: dict[str, Any] = {}
    for name, model in models.items():
        with warnings.catch_warnings():
            if forecasters:  # the first pass has warned about the file
                warnings.simplefilter("ignore", SongWarning)
            song, measures, seconds = loading.forecast(model, path, name, update)
        forecasters[name] = {
            "prediction_gain_db": [finite(gain) for gain in measures.prediction_gain_db],
            "bits_per_sample": finite(measures.bits_per_sample),
            "lag_samples": measures.lag_samples.tolist(),
            "seconds": seconds,
        }
    return {
        "path": path,
        "frames": measures.frames,
        "channels": song.channels,
        "sample_rate_hz": song.sample_rate_hz,
        "forecasters": forecasters,
    }


def print_scores(scores: list[dict[str, Any]]) -> None:
    """Print a heading and a table for each song."""
    for place, score in enumerate(scores):
        seconds = score["frames"] / score["sample_rate_hz"]
        sound = "mono" if score["channels"] == 1 else "stereo"
        if place:
            print()
        name = printable(Path(score["path"]))
        print(f"{name}: {duration(seconds)}, {score['sample_rate_hz']} Hz, {sound}")
        measures = ("bits/sample", "lag", "seconds", "x real time")
        columns = ["forecaster", *GAINS[score["channels"]], *measures]
        rows = [
            [
                name,
                *(number(gain, 2) for gain in result["prediction_gain_db"]),
                number(result["bits_per_sample"], 4),
                ", ".join(map(str, dict.fromkeys(result["lag_samples"]))),
                number(result["seconds"], 2),
                number(seconds / result["seconds"], 2),
            ]
            for name, result in score["forecasters"].items()
        ]
        print_table(columns, rows)

"""`songcast score`: prediction gain and bits per sample of songs and models."""

import argparse
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from songcast.commands import SONG_HELP, Subparsers, add_command

if TYPE_CHECKING:
    from songcast.commands.loading import Update
    from songcast.forecasting.forecaster import Forecaster

GAINS = {1: ["gain dB"], 2: ["left dB", "right dB"]}


def add(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "score",
        run,
        "forecast songs and print prediction gain and bits per sample",
        "Every sample counts, including those before the model has adapted. Without --model: the "
        "champion of the registry, cascade, ridge and persistence.",
        "songcast score song.mp3 other.flac --model cascade --model models/train",
    )
    parser.add_argument("songs", metavar="SONG", nargs="+", help=SONG_HELP)
    parser.add_argument(
        "--model",
        metavar="URI",
        action="append",
        help="models:/songcast@champion, models:/songcast/3, a bundle folder, cascade, ridge, "
        "notebook or persistence; can be repeated",
    )


def run(arguments: argparse.Namespace) -> int:
    """Score the songs. Prints nothing on stdout if one of them fails."""
    from songcast.audio.reading import open_song
    from songcast.report import console

    seconds = 0.0
    for path in arguments.songs:  # headers only, to reject invalid files early
        with open_song(path) as reader:
            seconds += reader.declared_seconds
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
    return 0


def load_models(named: list[str] | None) -> dict[str, "Forecaster"]:
    """Load the named models; by default those of champion, cascade, ridge, persistence that exist.

    Raises ``SongcastError`` for the first that fails.
    """
    from songcast.bundle import MANIFEST
    from songcast.commands.loading import CHAMPION_URI, has_registry, load_model
    from songcast.forecasting.loading import bundle_folder
    from songcast.registry.versions import CHAMPION, get_alias
    from songcast.report.console import note

    if named:
        return {uri: load_model(uri) for uri in dict.fromkeys(named)}
    uris = {CHAMPION: CHAMPION_URI} | {n: n for n in ("cascade", "ridge", "persistence")}
    if not (has_registry() and get_alias(CHAMPION)):
        note("no champion is registered yet, skipped: `make run` registers one")
        del uris[CHAMPION]
    if not (bundle_folder("ridge") / MANIFEST).is_file():
        note("ridge is not fitted yet, skipped: `make run` fits it")
        del uris["ridge"]
    return {name: load_model(uri) for name, uri in uris.items()}


def score_song(path: str, models: Mapping[str, "Forecaster"], update: "Update") -> dict[str, Any]:
    """Return one entry of the JSON document. Raises ``AudioError``."""
    from songcast.audio.songs import SongWarning
    from songcast.commands.loading import forecast
    from songcast.evaluation.summary import finite

    forecasters: dict[str, Any] = {}
    for name, model in models.items():
        with warnings.catch_warnings():
            if forecasters:  # the first pass has warned about the file
                warnings.simplefilter("ignore", SongWarning)
            result = forecast(model, path, name, update)
        measures = result.measures
        forecasters[name] = {
            "prediction_gain_db": [finite(gain) for gain in measures.prediction_gain_db],
            "bits_per_sample": finite(measures.bits_per_sample),
            "lag_samples": measures.lag_samples.tolist(),
            "seconds": result.seconds,
        }
    return {
        "path": path,
        "frames": measures.frames,
        "channels": result.channels,
        "sample_rate_hz": result.sample_rate_hz,
        "forecasters": forecasters,
    }


def print_scores(scores: list[dict[str, Any]]) -> None:
    """Print a heading and a table for each song."""
    from songcast.audio.formats import printable
    from songcast.report.console import duration, number, print_table

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

"""The arguments of the commands. `songcast --help` imports this module, and none that runs one."""

import argparse
import re
from functools import partial
from pathlib import Path

from songcast.commands import BUNDLE_HELP, SONG_HELP, URI_HELP, Subparsers, add_command

SERVER_HOST, SERVER_PORT, UI_PORT = "127.0.0.1", 8000, 5000
MOST_KEPT = 1000


def add_song_commands(subparsers: Subparsers) -> None:
    """Add score, predict, continue and inspect."""
    add = partial(add_command, subparsers)
    parser = add(
        "score",
        "score:run",
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
    parser = add(
        "predict",
        "predict:predict",
        "write the teacher-forced predicted song",
        "Each sample is the mean of the model's forecast from the true samples before it, rounded "
        "and limited to int16.",
        "songcast predict song.mp3 -o predicted.wav",
        json=False,
    )
    _add_song_and_output(parser)
    others = "also cascade, ridge, notebook or persistence"
    parser.add_argument("--model", metavar="URI", help=f"{BUNDLE_HELP}; {others}")
    parser = add(
        "continue",
        "predict:continue_song",
        "write the song followed by its continuation",
        "The model follows the passages that resemble the end of the song most and shapes them to "
        "the levels that it predicts. The same seed gives the same samples.",
        "songcast continue song.mp3 -o longer.wav --seconds 10",
    )
    _add_song_and_output(parser)
    text = "duration of the continuation, up to 3600"
    parser.add_argument("--seconds", type=float, required=True, metavar="S", help=text)
    parser.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        metavar="T",
        help="sampling temperature: 0 is the most probable, 1 is the default, higher is more "
        "random",
    )
    text = "seed of the random numbers (default: 0)"
    parser.add_argument("--seed", type=int, default=0, metavar="N", help=text)
    parser.add_argument("--model", metavar="URI", help=BUNDLE_HELP)
    parser.add_argument("--only", action="store_true", help="write the continuation alone")
    parser = add(
        "inspect",
        "inspect:run",
        "print properties, damage and surprising moments of recordings",
        "It warns about what prepare.expect in params.yaml does not allow. Clicks and splices are "
        "moments where the samples cost a model many bits.",
        "songcast inspect song.mp3 --labels song.txt --plot song.png",
    )
    parser.add_argument("songs", metavar="SONG", nargs="+", help=SONG_HELP)
    text = "models:/songcast/3, a bundle folder, cascade, ...; default: the champion of the "
    parser.add_argument("--model", metavar="URI", help=f"{text}registry, otherwise cascade")
    text = "write the events as labels for Audacity"
    parser.add_argument("--labels", metavar="FILE", type=Path, help=text)
    parser.add_argument("--plot", metavar="FILE", type=Path, help="write a figure (PNG)")


def _add_song_and_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("song", metavar="SONG", help=SONG_HELP)
    text = "file to write; the suffix gives the format: .wav .flac .ogg .mp3 .m4a"
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help=text)


def add_registry_commands(subparsers: Subparsers) -> None:
    """Add models, compare, promote, rollback and history."""
    add = partial(add_command, subparsers)
    add(
        "models",
        "models:list_models",
        "list the versions in the registry",
        "Prediction gain and bits are means over the held-out passages. The server uses the "
        "champion; the challenger is the best candidate.",
        "songcast models --json",
    )
    parser = add(
        "compare",
        "models:compare_versions",
        "compare two versions song by song",
        "Prints bits per sample of A minus bits per sample of B on the held-out passages, as "
        "stored with the versions; a negative difference means that A is better. The mean has a "
        "95 % confidence interval (bootstrap over songs). The gate requires that the whole "
        "interval is below 0.",
        "songcast compare 4 3",
    )
    for name in ("A", "B"):
        text = "such as 3, champion"
        parser.add_argument(name.lower(), metavar=name, type=version_uri, help=text)
    parser.add_argument(
        "--live",
        action="store_true",
        help="compare them on the songs that a server answered with one and its shadow forecast "
        "with the other, see `songcast serve --shadow`",
    )
    parser = add(
        "promote",
        "models:promote",
        "make a version the champion, if it passes the gate",
        "The gate checks the metrics stored with the version: they must be finite, lag 0, without "
        "clipping, better than ridge, and significantly better than the present champion.",
        "songcast promote 3",
    )
    text = "such as 3, or challenger"
    parser.add_argument("version", metavar="VERSION", type=version_uri, help=text)
    text = "compare it with the champion on served songs, see `songcast serve --shadow`"
    parser.add_argument("--live", action="store_true", help=text)
    reason = "reason for the history"
    parser.add_argument("--reason", metavar="TEXT", default="", help=reason)
    text = "promote it although the gate rejects it; requires --reason, and is recorded"
    parser.add_argument("--force", action="store_true", help=text)
    parser = add(
        "rollback",
        "models:rollback",
        "make the previous champion the champion again",
        "Run it twice to go back two champions. A version that was rolled back can become "
        "champion again with `songcast promote --force` only.",
        "songcast rollback --reason 'clicks in quiet passages'",
    )
    parser.add_argument("--reason", metavar="TEXT", default="", help=reason)
    add(
        "history",
        "models:history",
        "list all changes of the champion",
        "Newest first, with time, user, old and new version and reason. The registry stores the "
        "list, so all its users see the same one.",
        "songcast history --json",
    )


def add_version_commands(subparsers: Subparsers) -> None:
    """Add pull, trace and reproduce."""
    add = partial(add_command, subparsers)
    parser = add(
        "pull",
        "versions:pull",
        "copy a registered version into a folder, with its model card",
        "Verifies the sha256 of the weights; on failure, no folder is written. The folder can be "
        "used as a model: `--model DIR`, `songcast.load(DIR)`. Without URI: the champion.",
        "songcast pull models:/songcast/3 my_model",
    )
    parser.add_argument("uri", metavar="URI", nargs="?", help=URI_HELP)
    parser.add_argument("folder", metavar="DIR", type=Path, help="a new folder")
    parser = add(
        "trace",
        "versions:trace",
        "print the provenance of a version",
        "Prints weights, run, code, params, environment, machine and songs of the version, and of "
        "each version that it was retrained from.",
        "songcast trace models:/songcast@champion",
    )
    parser.add_argument("uri", metavar="URI", help=URI_HELP)
    parser = add(
        "reproduce",
        "versions:reproduce",
        "build a version again and compare weights and metrics",
        "Checks out its commit into a temporary folder, restores params, songs and environment, "
        "and runs the pipeline without caches, which takes as long as `make run` did. On the same "
        "hardware, the weights must be identical; on other hardware, every song must be within "
        "0.02 bits per sample. Exit code 1: the result is different.",
        "songcast reproduce models:/songcast@champion",
    )
    parser.add_argument("uri", metavar="URI", help=URI_HELP)


def add_server_commands(subparsers: Subparsers) -> None:
    """Add serve, monitor and ui."""
    add = partial(add_command, subparsers)
    parser = add(
        "serve",
        "serve:run",
        "serve a model over HTTP, with a web page",
        "/invocations and /ping work as in MLflow's scoring server, /continue streams a "
        "continuation, /docs documents the API. Reloads the model when the alias moves. Listens "
        "on this machine only unless --host is given; if SONGCAST_TOKEN is set, clients must send "
        "that token.",
        "songcast serve --port 8001",
        json=False,
    )
    _add_port(parser, SERVER_PORT)
    text = f"address to listen on (default: {SERVER_HOST})"
    parser.add_argument("--host", default=SERVER_HOST, help=text)
    parser.add_argument("--model", metavar="URI", help=BUNDLE_HELP)
    text = "a version, such as challenger, that forecasts the same songs when a worker is idle"
    parser.add_argument("--shadow", metavar="ALIAS", help=text)
    text = "keep the N songs with the most bits per sample; by default no song is kept"
    parser.add_argument("--keep-surprising", metavar="N", type=count, default=0, help=text)
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    parser = add(
        "monitor",
        "monitor:run",
        "compare the served songs with the champion's evaluation",
        "Compares the songs of a window with the held-out passages of the champion, and with the "
        "window before (Mann-Whitney U test). Exit code 3: bits per sample differ, and the "
        "difference is neither chance nor negligible. A song that was sent several times counts "
        "once.",
        "songcast monitor --window 7d --log",
    )
    text = "the last days, such as 7d, or the last songs, such as 200 (default: 7d)"
    parser.add_argument("--window", metavar="DAYS|N", type=window, default="7d", help=text)
    parser.add_argument("--plot", metavar="FILE", type=Path, help="write a figure (PNG)")
    text = "add the result to the MLflow run `monitor` of this version, as its next step"
    parser.add_argument("--log", action="store_true", help=text)
    parser = add(
        "ui",
        "ui:run",
        "open the MLflow UI on the embedded store",
        "Listens on this machine only, until Ctrl-C.",
        "songcast ui --port 5001",
        json=False,
    )
    _add_port(parser, UI_PORT)


def _add_port(parser: argparse.ArgumentParser, default: int) -> None:
    text = f"port to listen on (default: {default})"
    parser.add_argument("--port", type=port_number, default=default, help=text)


def count(text: str) -> int:
    """Parse the number of songs to keep. Raises ``ArgumentTypeError``."""
    if not (text.isdecimal() and 1 <= int(text) <= MOST_KEPT):
        raise argparse.ArgumentTypeError(f"{text!r}: use a number from 1 to {MOST_KEPT}")
    return int(text)


def window(text: str) -> tuple[float | None, int | None]:
    """Parse ``7d`` to (days, None) and ``200`` to (None, songs). Raises ``ArgumentTypeError``."""
    match = re.fullmatch(r"(\d{1,5}(?:\.\d+)?)d|([1-9]\d{0,6})", text)
    if match is None or (match[1] and not float(match[1])):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a window: write days such as 7d, or a number of songs such as 200"
        )
    return (float(match[1]), None) if match[1] else (None, int(match[2]))


def version_uri(text: str) -> str:
    """Return the URI of a version that is given as ``3``, ``v3``, ``challenger`` or URI.

    Raises ``ArgumentTypeError``.
    """
    name = text.removeprefix("models:/songcast/").removeprefix("models:/songcast@")
    digits = name.removeprefix("v")
    if digits.isascii() and digits.isdecimal() and len(digits) < 10:
        return f"models:/songcast/{int(digits)}"
    if name not in ("champion", "challenger"):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a version number, champion or challenger; "
            "`songcast models` lists them"
        )
    return f"models:/songcast@{name}"


def port_number(text: str) -> int:
    """Parse a TCP port. Raises ``ArgumentTypeError``."""
    if not (text.isdecimal() and 1 <= int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: use a number from 1 to 65535")
    return int(text)


def add_pipeline_commands(subparsers: Subparsers) -> None:
    """Add estimate, sweep and summary."""
    add = partial(add_command, subparsers)
    add(
        "estimate",
        "estimate:run",
        "print what `make run` will cost",
        "Prints the songs and hours of music in data/, and the CPU time and disk of each stage "
        "that is not up to date. The speed of this machine is measured once; each run of a "
        "stage corrects its estimate.",
        "songcast estimate",
    )
    add(
        "sweep",
        "sweep:run",
        "search for better settings of train",
        "Draws trials from sweep.space of params.yaml, trains them on Ray (RAY_ADDRESS, or this "
        "machine), stops the worse ones early, and logs each as an MLflow run. You can interrupt "
        "it at any time; it resumes where it stopped. Run `dvc repro prepare` first.",
        "songcast sweep",
    )
    parser = add(
        "summary",
        "summary:run",
        "print the results of the pipeline",
        "Prints the mean prediction gain and bits per sample of every forecaster on held-out "
        "passages, the champion and the challenger, and the files with details.",
        "songcast summary",
        json=False,
    )
    text = "print the table alone, as markdown"
    parser.add_argument("--markdown", action="store_true", help=text)

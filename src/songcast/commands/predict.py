"""`songcast predict`: the forecast of a song as an audio file."""

import argparse
from typing import Any

from songcast.commands import (
    BUNDLE_HELP,
    Subparsers,
    add_command,
    add_song_and_output,
    check_song_and_output,
)


def add(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "predict",
        run,
        "write the teacher-forced predicted song",
        "Each sample is the mean of the model's forecast from the true samples before it, rounded "
        "and limited to int16.",
        "songcast predict song.mp3 -o predicted.wav",
        json=False,
    )
    add_song_and_output(parser)
    parser.add_argument(
        "--model",
        metavar="URI",
        help=f"{BUNDLE_HELP}; also cascade, ridge, notebook or persistence",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the predicted song; invalid input is rejected before anything is computed."""
    from songcast.audio.formats import printable
    from songcast.audio.songs import write_blocks
    from songcast.commands.loading import CHAMPION_URI, forecast, load_model
    from songcast.report import console

    source, target, seconds = check_song_and_output(arguments)
    uri = arguments.model or CHAMPION_URI
    model = load_model(uri)

    def write(blocks: Any, song: Any) -> None:
        write_blocks(target, blocks, song.sample_rate_hz, song.channels)

    with console.song_warnings_as_lines(), console.progress("", seconds, "s of song") as update:
        result = forecast(model, source, uri, update, write)
    measures = result.measures
    gains = " and ".join(console.number(g, 2) for g in measures.prediction_gain_db.tolist())
    print(
        f"{printable(target)}: {console.duration(measures.frames / result.sample_rate_hz)} "
        f"predicted by {uri}; prediction gain {gains} dB, {measures.bits_per_sample:.4f} bits per "
        "sample"
    )
    return 0

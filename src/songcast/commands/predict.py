"""`songcast predict`: the forecast of a song as an audio file."""

import argparse

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
    from songcast.audio.songs import Song, read_song, write_song
    from songcast.commands.loading import CHAMPION_URI, forecast, load_model
    from songcast.report import console

    source, target, seconds = check_song_and_output(arguments)
    uri = arguments.model or CHAMPION_URI
    model = load_model(uri)
    with console.song_warnings_as_lines(), console.progress("", seconds, "s of song") as update:
        song = read_song(source)
        result = forecast(model, song, f"{song.name}, {uri}", update)
    predicted = result.predicted
    write_song(Song(samples=predicted, sample_rate_hz=song.sample_rate_hz, name=song.name), target)
    gains = " and ".join(console.number(gain, 2) for gain in result.prediction_gain_db.tolist())
    print(
        f"{printable(target)}: {console.duration(song.seconds)} predicted by {uri}; "
        f"prediction gain {gains} dB, {result.bits_per_sample:.4f} bits per sample"
    )
    return 0

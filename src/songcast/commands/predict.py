"""`songcast predict`: the song as a model expects it, one sample ahead of the true past."""

import argparse

from songcast.commands import Subparsers, add_command
from songcast.commands.one_song import add_song_and_output, check_song_and_output


def add(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "predict",
        run,
        "write the teacher-forced predicted song",
        "Each of its samples is what the model expected, having heard the true samples before "
        "it, rounded and limited to int16. Without --model: the champion of the registry.",
        "songcast predict song.mp3 -o predicted.wav",
    )
    add_song_and_output(parser)
    parser.add_argument(
        "--model",
        metavar="URI",
        help="models:/songcast@champion (the default), models:/songcast/3, a bundle folder, "
        "cascade, ridge, notebook or persistence",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the predicted song; what can be refused is refused before computing."""
    from songcast.audio.formats import shown
    from songcast.audio.songs import read_song, write_song
    from songcast.commands.forecasting import CHAMPION_URI, clipped_mean, forecast, load_model
    from songcast.report import console

    source, target, seconds = check_song_and_output(arguments)
    uri = arguments.model or CHAMPION_URI
    model = load_model(uri)
    with console.song_warnings_as_lines(), console.progress("", seconds, "s of song") as update:
        song = read_song(source)
        result = forecast(model, song, f"{song.name}, {uri}", update)
    write_song(clipped_mean(result, song), target)
    gains = " and ".join(console.number(gain, 2) for gain in result.prediction_gain_db.tolist())
    print(
        f"{shown(target)}: {console.duration(song.seconds)} predicted by {uri}; "
        f"prediction gain {gains} dB, {result.bits_per_sample:.4f} bits per sample"
    )
    return 0

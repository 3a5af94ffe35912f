"""`songcast predict`: the song as a model expects it, one sample ahead of the true past."""

import argparse
from pathlib import Path

from songcast.commands import Subparsers, add_command


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
    parser.add_argument("song", metavar="SONG", help="wav, mp3, flac, ogg, m4a, ...")
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        required=True,
        help="where to write it; the suffix says the format: .wav .flac .ogg .mp3 .m4a",
    )
    parser.add_argument(
        "--model",
        metavar="URI",
        help="models:/songcast@champion (the default), models:/songcast/3, a bundle folder, "
        "cascade, ridge, notebook or persistence",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the predicted song; what can be refused is refused before computing."""
    from songcast import terminal
    from songcast.audio import check_writable, open_song, read_song, write_song
    from songcast.commands.forecasting import CHAMPION_URI, clipped_mean, forecast, load_model
    from songcast.containers import shown

    source, target = Path(arguments.song), Path(arguments.output)
    with open_song(source) as reader:
        seconds = (reader.frames or 0) / reader.sample_rate_hz
    check_target(source, target)
    check_writable(target)
    uri = arguments.model or CHAMPION_URI
    model = load_model(uri)
    with terminal.song_warnings_as_lines(), terminal.progress(seconds) as advance:
        song = read_song(source)
        result = forecast(model, song, f"{song.name}, {uri}", advance)
    write_song(clipped_mean(result, song), target)
    gains = " and ".join(terminal.number(gain, 2) for gain in result.prediction_gain_db.tolist())
    print(
        f"{shown(target)}: {terminal.duration(song.seconds)} predicted by {uri}; "
        f"prediction gain {gains} dB, {result.bits_per_sample:.4f} bits per sample"
    )
    return 0


def check_target(source: Path, target: Path) -> None:
    """Raise ``AudioError`` where writing ``target`` would destroy ``source``."""
    from songcast.containers import audio_error

    if target.exists() and target.samefile(source):
        raise audio_error(target, "is the song itself", "write to another file")

"""`songcast predict` and `continue`: the forecast or the continuation of a song as a file."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from songcast.commands import BUNDLE_HELP, SONG_HELP, Subparsers, add_command

if TYPE_CHECKING:
    from songcast.audio.conversion import Samples


def add(subparsers: Subparsers) -> None:
    """Add the commands."""
    parser = add_command(
        subparsers,
        "predict",
        predict,
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
    parser = add_command(
        subparsers,
        "continue",
        continue_song,
        "write the song followed by its continuation",
        "The model follows the passages that resemble the end of the song most and shapes them to "
        "the levels that it predicts. The same seed gives the same samples.",
        "songcast continue song.mp3 -o longer.wav --seconds 10",
    )
    add_song_and_output(parser)
    parser.add_argument(
        "--seconds",
        type=float,
        required=True,
        metavar="S",
        help="duration of the continuation, up to 3600",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        metavar="T",
        help="sampling temperature: 0 is the most probable, 1 is the default, higher is more "
        "random",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the random numbers (default: 0)"
    )
    parser.add_argument("--model", metavar="URI", help=BUNDLE_HELP)
    parser.add_argument("--only", action="store_true", help="write the continuation alone")


def predict(arguments: argparse.Namespace) -> int:
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


def continue_song(arguments: argparse.Namespace) -> int:
    """Write the continued song; invalid input is rejected before anything is computed."""
    import time

    from songcast.audio.formats import printable
    from songcast.audio.reading import open_song
    from songcast.audio.songs import read_song, write_blocks
    from songcast.commands.loading import CHAMPION_URI, load_model
    from songcast.continuation.prompt import LONGEST_SECONDS, check_request
    from songcast.report import console

    check_request(arguments.seconds, arguments.temperature, arguments.seed)
    source, target, _ = check_song_and_output(arguments)
    uri = arguments.model or CHAMPION_URI
    model = load_model(uri).continuation
    with console.song_warnings_as_lines():
        song = read_song(source, LONGEST_SECONDS)
    began = time.perf_counter()
    stream = model.stream_song(song, arguments.seconds, arguments.temperature, arguments.seed)
    primed = time.perf_counter()
    frames, seconds, took = 0, 0.0, 0.0

    def blocks() -> Iterator["Samples"]:
        nonlocal frames, seconds, took
        if not arguments.only:
            with open_song(source) as reader:
                for block in reader.blocks():
                    frames += len(block)
                    yield block
        start = time.perf_counter()
        for block in stream:
            frames += len(block)
            seconds += len(block) / song.sample_rate_hz
            took = time.perf_counter() - start
            update(completed=seconds, description=f"{seconds / took:.1f} x real time")
            yield block

    with console.progress(uri, arguments.seconds, "s of song") as update:
        write_blocks(target, blocks(), song.sample_rate_hz, song.channels)
    if arguments.json:
        document = {
            "path": str(target),
            "model": uri,
            "seconds": seconds,
            "temperature": arguments.temperature,
            "seed": arguments.seed,
            "frames": frames,
            "channels": song.channels,
            "sample_rate_hz": song.sample_rate_hz,
            "priming_seconds": primed - began,
            "real_time_factor": seconds / took,
        }
        console.print_json(document)
        return 0
    print(
        f"{printable(target)}: {console.duration(seconds)} generated by {uri} at "
        f"{seconds / took:.1f} x real time"
    )
    return 0


def add_song_and_output(parser: argparse.ArgumentParser) -> None:
    """Add SONG and -o OUT, see ``check_song_and_output``."""
    parser.add_argument("song", metavar="SONG", help=SONG_HELP)
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        required=True,
        help="file to write; the suffix gives the format: .wav .flac .ogg .mp3 .m4a",
    )


def check_song_and_output(arguments: argparse.Namespace) -> tuple[Path, Path, float]:
    """Return SONG, OUT and the duration of SONG in seconds, 0 if its header does not give it.

    Raises ``AudioError``, before anything is computed, for a SONG that is visibly not audio and
    for an OUT that cannot be written or is SONG itself.
    """
    from songcast.audio.formats import audio_error
    from songcast.audio.reading import open_song
    from songcast.audio.songs import check_writable

    source, target = Path(arguments.song), Path(arguments.output)
    with open_song(source) as reader:
        seconds = reader.declared_seconds
    if target.exists() and target.samefile(source):
        raise audio_error(target, "is the song itself", "write to another file")
    check_writable(target)
    return source, target, seconds

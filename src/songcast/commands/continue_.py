"""`songcast continue`: the song, and what a model makes of it afterwards."""

import argparse

from songcast.commands import Subparsers, add_command
from songcast.commands.one_song import add_song_and_output, check_song_and_output


def add(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "continue",
        run,
        "write the song followed by its continuation",
        "The model hears the song, then itself. The same seed gives the same sound. Without "
        "--model: the champion of the registry.",
        "songcast continue song.mp3 -o longer.wav --seconds 10",
    )
    add_song_and_output(parser)
    parser.add_argument(
        "--seconds", type=float, required=True, metavar="S", help="of continuation, up to 3600"
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        metavar="T",
        help="0: what is most expected; 1 (the default): drawn as learned; more: wilder",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="another seed, another sound (default: 0)"
    )
    parser.add_argument(
        "--model",
        metavar="URI",
        help="models:/songcast@champion (the default), models:/songcast/3 or a bundle folder",
    )
    parser.add_argument("--only", action="store_true", help="write the continuation alone")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(arguments: argparse.Namespace) -> int:
    """Write the continued song; what can be refused is refused before computing."""
    import time

    import numpy as np

    from songcast.audio.formats import shown
    from songcast.audio.songs import Song, read_song, write_song
    from songcast.commands.forecasting import CHAMPION_URI, load_model
    from songcast.continuation.limits import check_request
    from songcast.report import console

    check_request(arguments.seconds, arguments.temperature, arguments.seed)
    source, target, _ = check_song_and_output(arguments)
    uri = arguments.model or CHAMPION_URI
    model = load_model(uri).continuation
    with console.song_warnings_as_lines():
        song = read_song(source)
    began = time.perf_counter()
    stream = model.stream_song(song, arguments.seconds, arguments.temperature, arguments.seed)
    primed = time.perf_counter()
    blocks, done_seconds = [], 0.0
    with console.progress(uri, arguments.seconds, "s of song") as update:
        for block in stream:
            blocks.append(block)
            done_seconds += len(block) / song.sample_rate_hz
            factor = done_seconds / (time.perf_counter() - primed)
            update(completed=done_seconds, description=f"{factor:.1f} x real time")
    took = time.perf_counter() - primed
    more = np.concatenate(blocks)
    whole = more if arguments.only else np.concatenate([song.samples, more])
    write_song(Song(samples=whole, sample_rate_hz=song.sample_rate_hz, name=song.name), target)
    seconds = len(more) / song.sample_rate_hz
    document = {
        "path": str(target),
        "model": uri,
        "seconds": seconds,
        "temperature": arguments.temperature,
        "seed": arguments.seed,
        "frames": len(whole),
        "channels": song.channels,
        "sample_rate_hz": song.sample_rate_hz,
        "clipped_samples": stream.clipped,
        "priming_seconds": primed - began,
        "real_time_factor": seconds / took,
    }
    if arguments.json:
        console.print_json(document)
        return 0
    print(
        f"{shown(target)}: {console.duration(seconds)} continued by {uri} at "
        f"{seconds / took:.1f} x real time; {stream.clipped} samples clipped"
    )
    return 0

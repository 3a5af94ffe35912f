"""What the commands share that make one song of another."""

import argparse
from pathlib import Path

from songcast.commands import SONG_HELP


def add_song_and_output(parser: argparse.ArgumentParser) -> None:
    """Add SONG and -o OUT."""
    parser.add_argument("song", metavar="SONG", help=SONG_HELP)
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        required=True,
        help="where to write it; the suffix says the format: .wav .flac .ogg .mp3 .m4a",
    )


def check_song_and_output(arguments: argparse.Namespace) -> tuple[Path, Path, float]:
    """Return SONG, OUT and how many seconds SONG promises (0: it does not say).

    Raises ``AudioError`` for what is visibly no song, and for an OUT that cannot be written or
    is the song itself: before anything is computed.
    """
    from songcast.audio.formats import audio_error
    from songcast.audio.songs import check_writable, open_song

    source, target = Path(arguments.song), Path(arguments.output)
    with open_song(source) as reader:
        seconds = reader.promised_seconds
    if target.exists() and target.samefile(source):
        raise audio_error(target, "is the song itself", "write to another file")
    check_writable(target)
    return source, target, seconds

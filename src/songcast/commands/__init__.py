"""The commands of ``songcast``: each module adds its commands to the parser and runs them.

A command takes parsed arguments, prints its result on stdout, and returns its exit code. Heavy
imports are inside the functions that need them, because `songcast --help` imports all modules.
"""

import argparse
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

Subparsers = Any  # argparse's own class for them is private

SONG_HELP = "wav, mp3, flac, ogg, m4a, ..."
URI_HELP = "models:/songcast@champion, models:/songcast/3"
BUNDLE_HELP = "models:/songcast@champion (the default), models:/songcast/3, or a bundle folder"


def add_command(
    subparsers: Subparsers,
    name: str,
    run: Callable[[argparse.Namespace], int],
    summary: str,
    details: str,
    example: str,
    json: bool = True,
) -> argparse.ArgumentParser:
    """Add a command and return its parser. ``run`` returns the exit code; ``json`` adds --json."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=summary,
        description=textwrap.fill(f"{summary[0].upper()}{summary[1:]}. {details}", 88),
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if json:
        parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.set_defaults(run=run)
    return parser


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

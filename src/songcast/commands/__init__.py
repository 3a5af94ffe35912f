"""The commands of ``songcast``: each module adds its commands to the parser and runs them.

A command takes parsed arguments, prints its result on stdout, and returns its exit code. Heavy
imports are inside the functions that need them, because `songcast --help` imports all modules.
"""

import argparse
import textwrap
from collections.abc import Callable
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

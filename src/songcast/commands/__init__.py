"""The commands of ``songcast``: ``parsers`` has their arguments, the other modules run them.

A command takes parsed arguments, prints its result on stdout, and returns its exit code. Its module
is imported when it runs, so that `songcast --help` is quick.
"""

import argparse
import pkgutil
import textwrap
from typing import Any

Subparsers = Any  # argparse's own class for them is private

SONG_HELP = "wav, mp3, flac, ogg, m4a, ..."
URI_HELP = "models:/songcast@champion, models:/songcast/3"
BUNDLE_HELP = "models:/songcast@champion (the default), models:/songcast/3, or a bundle folder"


def add_command(
    subparsers: Subparsers,
    name: str,
    run: str,
    summary: str,
    details: str,
    example: str,
    json: bool = True,
) -> argparse.ArgumentParser:
    """Add a command and return its parser.

    ``run``: the module and its function, such as ``score:run``, which returns the exit code or
    None. ``json`` adds --json.
    """
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
    place = f"songcast.commands.{run}"
    parser.set_defaults(run=lambda arguments: pkgutil.resolve_name(place)(arguments))
    return parser

"""The commands of ``songcast``: one module each, with ``add`` (its arguments) and ``run``.

A module imports what is heavy inside ``run``: `songcast --help` loads them all.
"""

import argparse
import textwrap
from collections.abc import Callable
from typing import Any

Subparsers = Any  # argparse's own class for them is private

SONG_HELP = "wav, mp3, flac, ogg, m4a, ..."


def add_command(
    subparsers: Subparsers,
    name: str,
    run: Callable[[argparse.Namespace], int],
    does: str,
    more: str,
    example: str,
) -> argparse.ArgumentParser:
    """Add a command with its help text and return its parser. ``run`` returns the exit code."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=does,
        description=textwrap.fill(f"{does[0].upper()}{does[1:]}. {more}", 88),
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    return parser

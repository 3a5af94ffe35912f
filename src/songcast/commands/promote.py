"""`songcast promote`: a version becomes champion."""

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from songcast.commands import Subparsers, add_command

if TYPE_CHECKING:
    from songcast.registry.promotion import Move


def add(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "promote",
        run,
        "make a version the champion, if it passes the gate",
        "The gate judges the numbers stored with the version: finite, lag 0, nothing clipped, "
        "better than ridge, and better than the present champion beyond chance.",
        "songcast promote 3",
    )
    parser.add_argument("version", metavar="VERSION", type=version_number, help="such as 3")
    parser.add_argument("--reason", metavar="TEXT", default="", help="why, for the history")
    parser.add_argument(
        "--force",
        action="store_true",
        help="promote it whatever the gate says; needs --reason, and is recorded",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")


def version_number(text: str) -> int:
    """Parse a version, also as ``v3`` or ``models:/songcast/3``. Raises ``ArgumentTypeError``."""
    digits = text.removeprefix("models:/songcast/").removeprefix("v")
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 10):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no version: give its number; `songcast models` lists them"
        )
    return int(digits)


def run(arguments: argparse.Namespace) -> int:
    """Promote the version."""
    from songcast.commands.forecasting import require_registry
    from songcast.registry import promotion

    require_registry()
    print_move(
        promotion.promote(arguments.version, arguments.reason, arguments.force), arguments.json
    )
    return 0


def print_move(move: "Move", as_json: bool) -> None:
    """Say what moved."""
    from songcast.report import console

    if as_json:
        console.print_json(asdict(move))
        return
    before = "none" if move.before is None else f"version {move.before}"
    print(f"champion: version {move.after} (before: {before})")
    if move.overruled:
        print(f"forced; the gate said: {'; '.join(move.overruled)}")

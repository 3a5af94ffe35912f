"""`songcast rollback`: the champion before this one is champion again."""

import argparse

from songcast.commands import Subparsers, add_command


def add(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "rollback",
        run,
        "make the earlier champion champion again",
        "Twice goes back two. What was rolled back stays out until it is promoted with --force.",
        "songcast rollback --reason 'clicks in quiet passages'",
    )
    parser.add_argument("--reason", metavar="TEXT", default="", help="why, for the history")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")


def run(arguments: argparse.Namespace) -> int:
    """Go back."""
    from songcast.commands.forecasting import require_registry
    from songcast.commands.promote import print_move
    from songcast.registry import promotion

    require_registry()
    print_move(promotion.rollback(arguments.reason), arguments.json)
    return 0

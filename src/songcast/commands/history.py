"""`songcast history`: every move of the champion."""

import argparse
from dataclasses import asdict

from songcast.commands import Subparsers, add_command


def add(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "history",
        run,
        "list every move of the champion: when, who, from, to, why",
        "Newest first. Kept in the registry, so all who use it see the same.",
        "songcast history --json",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")


def run(arguments: argparse.Namespace) -> int:
    """List the moves."""
    from songcast.commands.forecasting import has_registry
    from songcast.registry import promotion
    from songcast.report import console

    moves = promotion.history()[::-1] if has_registry() else []
    if arguments.json:
        console.print_json({"history": [asdict(move) for move in moves]})
    elif not moves:
        print("no champion was made yet: `make run` registers models, `songcast promote` chooses")
    else:
        rows = [
            [
                move.when,
                move.who,
                move.action,
                console.MISSING if move.before is None else str(move.before),
                str(move.after),
                move.why + (f" (against: {'; '.join(move.overruled)})" if move.overruled else ""),
            ]
            for move in moves
        ]
        console.print_table(["when", "who", "what", "from", "to", "why"], rows, left=6)
    return 0

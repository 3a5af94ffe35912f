"""`songcast promote`, `rollback` and `history`: changes of the champion."""

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from songcast.commands import Subparsers, add_command, version_uri

if TYPE_CHECKING:
    from songcast.registry.promotion import Move


def add(subparsers: Subparsers) -> None:
    """Add the commands."""
    parser = add_command(
        subparsers,
        "promote",
        promote,
        "make a version the champion, if it passes the gate",
        "The gate checks the metrics stored with the version: they must be finite, lag 0, without "
        "clipping, better than ridge, and significantly better than the present champion.",
        "songcast promote 3",
    )
    parser.add_argument(
        "version", metavar="VERSION", type=version_uri, help="such as 3, or challenger"
    )
    parser.add_argument(
        "--live",
        action="store_true",
        help="compare it with the champion on served songs, see `songcast serve --shadow`",
    )
    parser.add_argument("--reason", metavar="TEXT", default="", help="reason for the history")
    parser.add_argument(
        "--force",
        action="store_true",
        help="promote it although the gate rejects it; requires --reason, and is recorded",
    )
    parser = add_command(
        subparsers,
        "rollback",
        rollback,
        "make the previous champion the champion again",
        "Run it twice to go back two champions. A version that was rolled back can become "
        "champion again with `songcast promote --force` only.",
        "songcast rollback --reason 'clicks in quiet passages'",
    )
    parser.add_argument("--reason", metavar="TEXT", default="", help="reason for the history")
    add_command(
        subparsers,
        "history",
        history,
        "list all changes of the champion",
        "Newest first, with time, user, old and new version and reason. The registry stores the "
        "list, so all its users see the same one.",
        "songcast history --json",
    )


def promote(arguments: argparse.Namespace) -> int:
    """Promote the version."""
    from songcast.commands.loading import require_registry
    from songcast.registry import promotion
    from songcast.registry.versions import find_version

    require_registry()
    number = find_version(arguments.version).number
    move = promotion.promote(number, arguments.reason, arguments.force, arguments.live)
    return print_move(move, arguments.json)


def rollback(arguments: argparse.Namespace) -> int:
    """Restore the previous champion."""
    from songcast.commands.loading import require_registry
    from songcast.registry import promotion

    require_registry()
    return print_move(promotion.rollback(arguments.reason), arguments.json)


def print_move(move: "Move", as_json: bool) -> int:
    """Print the new champion."""
    from songcast.report import console

    if as_json:
        console.print_json(asdict(move))
        return 0
    before = "none" if move.before is None else f"version {move.before}"
    print(f"champion: version {move.after} (before: {before})")
    if move.live:
        print(f"live evidence: {evidence(move.live)}")
    if move.overruled:
        print(f"forced although the gate rejected it: {'; '.join(move.overruled)}")
    return 0


def history(arguments: argparse.Namespace) -> int:
    """List the changes."""
    from songcast.commands.loading import has_registry
    from songcast.registry import promotion
    from songcast.report import console

    moves = promotion.history()[::-1] if has_registry() else []
    if arguments.json:
        console.print_json({"history": [asdict(move) for move in moves]})
    elif not moves:
        print("no champion yet: `make run` registers models, `songcast promote` selects one")
    else:
        rows = [
            [
                move.when,
                move.who,
                move.action,
                console.MISSING if move.before is None else str(move.before),
                str(move.after),
                move.why
                + (f" (live: {evidence(move.live)})" if move.live else "")
                + (f" (against: {'; '.join(move.overruled)})" if move.overruled else ""),
            ]
            for move in moves
        ]
        console.print_table(["time", "user", "action", "from", "to", "reason"], rows, left=6)
    return 0


def evidence(live: dict[str, float]) -> str:
    """Return the evidence of served songs as text.

    >>> evidence({"songs": 212, "mean_bits": -0.1, "low_bits": -0.15, "high_bits": -0.05})
    '-0.1000 bits per sample, 95 % interval -0.1500 to -0.0500, 212 songs'
    """
    interval = f"95 % interval {live['low_bits']:+.4f} to {live['high_bits']:+.4f}"
    return f"{live['mean_bits']:+.4f} bits per sample, {interval}, {live['songs']:g} songs"

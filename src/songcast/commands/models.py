"""The versions in the registry: `songcast models`, `compare`, `promote`, `rollback`, `history`."""

import argparse
import datetime
import math
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from songcast.commands import Subparsers, add_command, version_uri

if TYPE_CHECKING:
    from songcast.registry.comparison import Comparison
    from songcast.registry.promotion import Move
    from songcast.registry.versions import Version

EMPTY = "no model is registered yet: `make demo` fetches and `make run` trains two"


def add(subparsers: Subparsers) -> None:
    """Add the commands."""
    add_command(
        subparsers,
        "models",
        list_models,
        "list the versions in the registry",
        "Prediction gain and bits are means over the held-out passages. The server uses the "
        "champion; the challenger is the best candidate.",
        "songcast models --json",
    )
    parser = add_command(
        subparsers,
        "compare",
        compare_versions,
        "compare two versions song by song",
        "Prints bits per sample of A minus bits per sample of B on the held-out passages, as "
        "stored with the versions; a negative difference means that A is better. The mean has a "
        "95 % confidence interval (bootstrap over songs). The gate requires that the whole "
        "interval is below 0.",
        "songcast compare 4 3",
    )
    for name in ("A", "B"):
        parser.add_argument(
            name.lower(), metavar=name, type=version_uri, help="such as 3, champion"
        )
    parser.add_argument(
        "--live",
        action="store_true",
        help="compare them on the songs that a server answered with one and its shadow forecast "
        "with the other, see `songcast serve --shadow`",
    )
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


def list_models(arguments: argparse.Namespace) -> int:
    """List the versions, newest first."""
    from songcast.commands.loading import has_registry
    from songcast.registry.versions import list_versions
    from songcast.report import console

    versions = list_versions() if has_registry() else []
    if arguments.json:
        console.print_json({"versions": [version_as_json(version) for version in versions]})
    elif not versions:
        print(EMPTY)
    else:
        columns = ["version", "kind", "aliases", "bits/sample", "gain dB", "age"]
        console.print_table(columns, [version_as_row(version) for version in versions], left=3)
    return 0


def version_as_json(version: "Version") -> dict[str, Any]:
    """Return a version as an entry of the JSON document."""
    created = datetime.datetime.fromtimestamp(version.created_ms / 1000, datetime.UTC)
    summary = version.evaluation.get("summary", {})
    return {
        "version": version.number,
        "kind": version.kind,
        "aliases": list(version.aliases),
        "bits_per_sample": summary.get("bits_per_sample"),
        "prediction_gain_db": summary.get("prediction_gain_db"),
        "created": created.isoformat(timespec="seconds"),
        "weights_sha256": version.weights_sha256,
        "run_id": version.run_id,
    }


def version_as_row(version: "Version") -> list[str]:
    """Return a version as a row of the table."""
    from songcast.report.console import number

    summary = version.evaluation.get("summary", {})
    return [
        str(version.number),
        version.kind,
        ", ".join(version.aliases),
        number(summary.get("bits_per_sample"), 4),
        number(summary.get("prediction_gain_db"), 2),
        age(time.time() - version.created_ms / 1000),
    ]


def age(seconds: float) -> str:
    """Return an age in its largest unit.

    >>> age(5), age(200), age(90000)
    ('5 s', '3 min', '1 d')
    """
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds / size)} {unit}"
    return f"{max(0, int(seconds))} s"


def compare_versions(arguments: argparse.Namespace) -> int:
    """Compare the versions."""
    from songcast.commands.loading import require_registry
    from songcast.errors import RegistryError
    from songcast.registry.comparison import compare, summary
    from songcast.registry.live import live_comparison
    from songcast.registry.versions import find_version
    from songcast.report import console

    require_registry()
    a, b = find_version(arguments.a), find_version(arguments.b)
    if arguments.live:
        result = live_comparison(a.uri, b.uri)
    else:
        result = compare(a.evaluation, b.evaluation)
    if math.isnan(result.mean):
        raise RegistryError(
            f"versions {a.number} and {b.number} have no song in common: compare versions that "
            "were evaluated on the same songs, or --live after `songcast serve --shadow`"
        )
    if arguments.json:
        document = {
            "a": a.number,
            "b": b.number,
            **summary(result),
            "songs": dict(result.songs),
        }
        console.print_json(document)
        return 0
    if not arguments.live:  # digests of songs mean nothing to a reader
        rows = [[slug, f"{difference:+.4f}"] for slug, difference in result.songs.items()]
        console.print_table(["song", f"bits/sample, {a.number} minus {b.number}"], rows)
    interval = f"95 % interval {result.low:+.4f} to {result.high:+.4f}"
    print(f"mean {result.mean:+.4f}, {interval}, {len(result.songs)} songs")
    print(verdict(result, a.number, b.number))
    return 0


def verdict(result: "Comparison", a: int, b: int) -> str:
    """Return which version is better."""
    if result.high < 0:
        return f"version {a} is better"
    return f"version {b} is better" if result.low > 0 else "no significant difference"


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

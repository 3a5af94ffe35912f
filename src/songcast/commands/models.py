"""The versions in the registry: `songcast models`, `compare`, `promote`, `rollback`, `history`."""

import argparse
import datetime
import math
import time
from dataclasses import asdict
from typing import Any

from songcast.commands import loading
from songcast.errors import RegistryError
from songcast.registry import promotion, versions
from songcast.registry.comparison import Comparison, compare, summary
from songcast.registry.live import live_comparison
from songcast.registry.promotion import Move
from songcast.registry.versions import Version, find_version
from songcast.report import console

EMPTY = "no model is registered yet: `make demo` fetches and `make run` trains two"


def list_models(arguments: argparse.Namespace) -> None:
    """List the versions, newest first."""
    entries = [as_json(version) for version in versions.list_versions()]
    if arguments.json:
        console.print_json({"versions": entries})
    elif not entries:
        print(EMPTY)
    else:
        columns = ["version", "kind", "aliases", "bits/sample", "gain dB", "age"]
        rows = [
            [
                str(entry["version"]),
                entry["kind"],
                ", ".join(entry["aliases"]),
                console.number(entry["bits_per_sample"], 4),
                console.number(entry["prediction_gain_db"], 2),
                age(time.time() - datetime.datetime.fromisoformat(entry["created"]).timestamp()),
            ]
            for entry in entries
        ]
        console.print_table(columns, rows, left=3)


def as_json(version: Version) -> dict[str, Any]:
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


def age(seconds: float) -> str:
    """Return an age in its largest unit.

    >>> age(5), age(200), age(90000)
    ('5 s', '3 min', '1 d')
    """
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds / size)} {unit}"
    return f"{max(0, int(seconds))} s"


def compare_versions(arguments: argparse.Namespace) -> None:
    """Compare the versions."""
    a, b = find_version(arguments.a), find_version(arguments.b)
    live = arguments.live
    result = live_comparison(a.uri, b.uri) if live else compare(a.evaluation, b.evaluation)
    if math.isnan(result.mean):
        raise RegistryError(
            f"versions {a.number} and {b.number} have no song in common: compare versions that "
            "were evaluated on the same songs, or --live after `songcast serve --shadow`"
        )
    if arguments.json:
        ends = {"a": a.number, "b": b.number}
        console.print_json({**ends, **summary(result), "songs": dict(result.songs)})
        return
    if not live:  # digests of songs mean nothing to a reader
        rows = [[slug, f"{difference:+.4f}"] for slug, difference in result.songs.items()]
        console.print_table(["song", f"bits/sample, {a.number} minus {b.number}"], rows)
    interval = f"95 % interval {result.low:+.4f} to {result.high:+.4f}"
    print(f"mean {result.mean:+.4f}, {interval}, {len(result.songs)} songs")
    print(verdict(result, a.number, b.number))


def verdict(result: Comparison, a: int, b: int) -> str:
    """Return which version is better."""
    if result.high < 0:
        return f"version {a} is better"
    return f"version {b} is better" if result.low > 0 else "no significant difference"


def promote(arguments: argparse.Namespace) -> None:
    """Promote the version."""
    number = find_version(arguments.version).number
    move = promotion.promote(number, arguments.reason, arguments.force, arguments.live)
    print_move(move, arguments.json)


def rollback(arguments: argparse.Namespace) -> None:
    """Restore the previous champion."""
    print_move(promotion.rollback(arguments.reason), arguments.json)


def print_move(move: Move, as_json: bool) -> None:
    """Print the new champion."""
    if as_json:
        console.print_json(asdict(move))
        return
    before = "none" if move.before is None else f"version {move.before}"
    print(f"champion: version {move.after} (before: {before})")
    if move.live:
        print(f"live evidence: {evidence(move.live)}")
    if move.overruled:
        print(f"forced although the gate rejected it: {'; '.join(move.overruled)}")


def history(arguments: argparse.Namespace) -> None:
    """List the changes."""
    moves = promotion.history()[::-1] if loading.has_registry() else []
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


def evidence(live: dict[str, float]) -> str:
    """Return the evidence of served songs as text.

    >>> evidence({"songs": 212, "mean_bits": -0.1, "low_bits": -0.15, "high_bits": -0.05})
    '-0.1000 bits per sample, 95 % interval -0.1500 to -0.0500, 212 songs'
    """
    interval = f"95 % interval {live['low_bits']:+.4f} to {live['high_bits']:+.4f}"
    return f"{live['mean_bits']:+.4f} bits per sample, {interval}, {live['songs']:g} songs"

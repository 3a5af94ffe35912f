"""`songcast models`: the versions in the registry."""

import argparse
import datetime
import time
from typing import TYPE_CHECKING, Any

from songcast.commands import Subparsers, add_command

if TYPE_CHECKING:
    from songcast.registry import Version

EMPTY = "no model is registered yet: `make run` trains and registers two"


def add(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "models",
        run,
        "list the versions in the registry",
        "Gain and bits are means over the songs' unseen passages. The champion is served; the "
        "challenger wants to be.",
        "songcast models --json",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")


def run(arguments: argparse.Namespace) -> int:
    """List the versions, newest first."""
    from songcast import registry
    from songcast.commands.forecasting import has_registry
    from songcast.report import console

    versions = registry.versions() if has_registry() else []
    if arguments.json:
        console.print_json({"versions": [as_json(version) for version in versions]})
    elif not versions:
        print(EMPTY)
    else:
        columns = ["version", "kind", "aliases", "bits/sample", "gain dB", "age"]
        console.print_table(columns, [as_row(version) for version in versions], left=3)
    return 0


def as_json(version: "Version") -> dict[str, Any]:
    """Return a version as an entry of the JSON document."""
    created = datetime.datetime.fromtimestamp(version.created_ms / 1000, datetime.UTC)
    return {
        "version": version.number,
        "kind": version.kind,
        "aliases": list(version.aliases),
        "bits_per_sample": version.evaluation.get("summary", {}).get("bits_per_sample"),
        "prediction_gain_db": version.evaluation.get("summary", {}).get("prediction_gain_db"),
        "created": created.isoformat(timespec="seconds"),
        "weights_sha256": version.weights_sha256,
        "run_id": version.run_id,
    }


def as_row(version: "Version") -> list[str]:
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
    """Return how long ago something was, in its largest unit.

    >>> age(5), age(200), age(90000)
    ('5 s', '3 min', '1 d')
    """
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds / size)} {unit}"
    return f"{max(0, int(seconds))} s"

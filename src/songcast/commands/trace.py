"""`songcast trace`: the provenance of a version."""

import argparse
import json
from typing import Any

from songcast.commands import URI_HELP, Subparsers, add_command

UNKNOWN = "not recorded"


def add(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "trace",
        run,
        "print the provenance of a version",
        "Prints weights, run, code, params, environment, machine and songs of the version, and of "
        "each version that it was retrained from.",
        "songcast trace models:/songcast@champion",
    )
    parser.add_argument("uri", metavar="URI", help=URI_HELP)


def run(arguments: argparse.Namespace) -> int:
    """Print the chain of versions."""
    from songcast.commands.loading import require_registry
    from songcast.registry import trace as registry_trace
    from songcast.report import console

    require_registry(arguments.uri)
    chain = registry_trace.trace(arguments.uri)
    if arguments.json:
        console.print_json({"chain": chain})
        return 0
    for place, entry in enumerate(chain):
        heading = f"{entry['uri']} ({', '.join([entry['kind'], *entry['aliases']])})"
        print(("\nretrained from " if place else "") + heading)
        for name, value in lines(entry):
            print(f"  {name:<12}{value}")
    return 0


def lines(entry: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the properties of a version as names and texts."""
    dirty = {"true": ", with uncommitted changes", "false": ", clean"}.get(entry["git_dirty"], "")

    def known(key: str, text: str = "{}") -> str:
        return text.format(entry[key]) if entry[key] else UNKNOWN

    return [
        ("weights", f"sha256 {entry['weights_sha256']}"),
        ("run", known("run_id")),
        ("code", known("git_commit", f"commit {{}}{dirty}")),
        ("lock", known("lock_sha256", "sha256 {}")),
        ("backend", known("backend")),
        ("machine", known("hardware")),
        ("seeds", json.dumps(entry["seeds"]) if entry["seeds"] else UNKNOWN),
        *(("params", f"{name}: {json.dumps(v)}") for name, v in entry["params"].items()),
        ("data", known("data_hash", "data.dvc {}")),
        *(
            (
                "song",
                f"{song['sha256'][:12]} {song['source']}"
                f"{'' if song['learned'] else ' (not used for training)'}; "
                f"{song['licence'] or 'licence not stated'}",
            )
            for song in entry["songs"]
        ),
    ]

"""`songcast trace`: where a version came from."""

import argparse
import json
from typing import Any

from songcast.commands import Subparsers, add_command

UNKNOWN = "not recorded"


def add(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "trace",
        run,
        "print the chain from a version to its songs",
        "Weights, run, code, params, environment, machine, songs, and the version that it was "
        "retrained from.",
        "songcast trace models:/songcast@champion",
    )
    parser.add_argument("uri", metavar="URI", help="models:/songcast@champion, models:/songcast/3")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")


def run(arguments: argparse.Namespace) -> int:
    """Print the chain."""
    from songcast.commands.forecasting import require_registry
    from songcast.registry import trace as registry_trace
    from songcast.report import console

    require_registry(arguments.uri)
    chain = registry_trace.trace(arguments.uri)
    if arguments.json:
        console.print_json({"chain": chain})
        return 0
    for place, entry in enumerate(chain):
        print(("\nretrained from " if place else "") + heading(entry))
        for name, value in lines(entry):
            print(f"  {name:<12}{value}")
    return 0


def heading(entry: dict[str, Any]) -> str:
    """Name the version."""
    return f"{entry['uri']} ({', '.join([entry['kind'], *entry['aliases']])})"


def lines(entry: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what is known of a version, by name."""
    dirty = {"true": ", with uncommitted changes", "false": ", clean"}.get(entry["git_dirty"], "")
    found = [
        ("weights", f"sha256 {entry['weights_sha256']}"),
        ("run", entry["run_id"] or UNKNOWN),
        ("code", f"commit {entry['git_commit']}{dirty}" if entry["git_commit"] else UNKNOWN),
        ("lock", f"sha256 {entry['lock_sha256']}" if entry["lock_sha256"] else UNKNOWN),
        ("backend", entry["backend"] or UNKNOWN),
        ("machine", entry["hardware"] or UNKNOWN),
        ("seeds", json.dumps(entry["seeds"]) if entry["seeds"] else UNKNOWN),
        *(("params", f"{name}: {json.dumps(v)}") for name, v in entry["params"].items()),
        ("data", f"data.dvc {entry['data_hash']}" if entry["data_hash"] else UNKNOWN),
    ]
    for song in entry["songs"]:
        heard = "" if song["learned"] else " (not learned from)"
        licence = song["licence"] or "licence not stated"
        found.append(("song", f"{song['sha256'][:12]} {song['source']}{heard}; {licence}"))
    return found

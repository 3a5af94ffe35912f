"""`songcast pull`, `trace` and `reproduce`: files, provenance and proof of a version."""

import argparse
import json
from collections.abc import Mapping
from typing import Any

from songcast.commands.loading import CHAMPION_URI
from songcast.registry import downloads, reproduction
from songcast.registry.versions import Version, find_version, list_versions
from songcast.report import console
from songcast.tracking.lineage import ORIGIN

UNKNOWN = "not recorded"
DIFFERENT = 1


def pull(arguments: argparse.Namespace) -> None:
    """Copy the version."""
    folder, uri = arguments.folder, arguments.uri or CHAMPION_URI
    version = downloads.pull(uri, folder)
    number, digest = version.number, version.weights_sha256
    if arguments.json:
        document = {"folder": str(folder), "version": number, "weights_sha256": digest}
        console.print_json(document)
    else:
        print(f"{folder}: version {number}, sha256 {digest[:12]}…")


def trace(arguments: argparse.Namespace) -> None:
    """Print the version and its ancestors, newest first."""
    known = {version.number: version for version in list_versions()}
    version: Version | None = find_version(arguments.uri)
    chain: list[Version] = []
    while version and version not in chain:
        chain.append(version)
        version = known.get(int(version.lineage.get("parent_version") or 0))
    if arguments.json:
        console.print_json({"chain": [as_json(version) for version in chain]})
        return
    for place, version in enumerate(chain):
        heading = f"{version.uri} ({', '.join([version.kind, *version.aliases])})"
        print(("\nretrained from " if place else "") + heading)
        for name, value in lines(version.lineage, version.run_id):
            print(f"  {name:<12}{value}")


def as_json(version: Version) -> dict[str, Any]:
    """Return a version as an entry of the JSON document."""
    keys = ("weights_sha256", *ORIGIN, "params", "seeds", "parent_version")
    return {
        "uri": version.uri,
        "version": version.number,
        "kind": version.kind,
        "aliases": list(version.aliases),
        "created_ms": version.created_ms,
        "run_id": version.run_id,
        **{key: version.lineage.get(key) for key in keys},
        "songs": version.lineage.get("songs", []),
    }


def lines(lineage: Mapping[str, Any], run_id: str) -> list[tuple[str, str]]:
    """Return the properties of a version as names and texts."""
    states = {None: "", True: ", with uncommitted changes", False: ", clean"}
    dirty = states[lineage.get("git_dirty")]

    def known(key: str, text: str = "{}") -> str:
        return text.format(lineage[key]) if lineage.get(key) else UNKNOWN

    return [
        ("weights", known("weights_sha256", "sha256 {}")),
        ("run", run_id or UNKNOWN),
        ("code", known("git_commit", f"commit {{}}{dirty}")),
        ("lock", known("lock_sha256", "sha256 {}")),
        ("backend", known("backend")),
        ("machine", known("hardware")),
        ("seeds", json.dumps(lineage["seeds"]) if lineage.get("seeds") else UNKNOWN),
        *(("params", f"{k}: {json.dumps(v)}") for k, v in (lineage.get("params") or {}).items()),
        ("data", known("data_hash", "data.dvc {}")),
        *(
            (
                "song",
                f"{song['sha256'][:12]} {song['source']}"
                f"{'' if song['learned'] else ' (not used for training)'}; "
                f"{song['licence'] or 'licence not stated'}",
            )
            for song in lineage.get("songs", ())
        ),
    ]


def reproduce(arguments: argparse.Namespace) -> int:
    """Build it again and print the verdict and its reasons."""
    result = reproduction.reproduce(arguments.uri, console.note)
    if arguments.json:
        console.print_json(result)
    else:
        code = f"commit {result['commit'][:12]}"
        if result["dirty"]:
            code += " (the original had uncommitted changes, which are not recorded)"
        machine = "the same hardware" if result["same_hardware"] else "other hardware"
        print(f"{result['uri']}: {result['verdict']}")
        print(f"  {code}; {machine}; {result['environment']}")
        print(f"  weights sha256 {result['weights_sha256']}")
        print(f"  largest difference of a song: {result['largest_bits']:.6f} bits per sample")
    return DIFFERENT if result["verdict"] == "different" else 0

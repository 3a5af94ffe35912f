"""`songcast pull`, `trace` and `reproduce`: files, provenance and proof of a version."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from songcast.commands import URI_HELP, Subparsers, add_command

if TYPE_CHECKING:
    from songcast.registry.versions import Version

UNKNOWN = "not recorded"
DIFFERENT = 1


def add(subparsers: Subparsers) -> None:
    """Add the commands."""
    parser = add_command(
        subparsers,
        "pull",
        pull,
        "copy a registered version into a folder, with its model card",
        "Verifies the sha256 of the weights; on failure, no folder is written. The folder can be "
        "used as a model: `--model DIR`, `songcast.load(DIR)`. Without URI: the champion.",
        "songcast pull models:/songcast/3 my_model",
    )
    parser.add_argument("uri", metavar="URI", nargs="?", help=URI_HELP)
    parser.add_argument("folder", metavar="DIR", type=Path, help="a new folder")
    parser = add_command(
        subparsers,
        "trace",
        trace,
        "print the provenance of a version",
        "Prints weights, run, code, params, environment, machine and songs of the version, and of "
        "each version that it was retrained from.",
        "songcast trace models:/songcast@champion",
    )
    parser.add_argument("uri", metavar="URI", help=URI_HELP)
    parser = add_command(
        subparsers,
        "reproduce",
        reproduce,
        "build a version again and compare weights and metrics",
        "Checks out its commit into a temporary folder, restores params, songs and environment, "
        "and runs the pipeline without caches, which takes as long as `make run` did. On the same "
        "hardware, the weights must be identical; on other hardware, every song must be within "
        "0.02 bits per sample. Exit code 1: the result is different.",
        "songcast reproduce models:/songcast@champion",
    )
    parser.add_argument("uri", metavar="URI", help=URI_HELP)


def pull(arguments: argparse.Namespace) -> int:
    """Copy the version."""
    from songcast.commands.loading import CHAMPION_URI, require_registry
    from songcast.registry import downloads
    from songcast.report import console

    folder, uri = arguments.folder, arguments.uri or CHAMPION_URI
    require_registry(uri)
    version = downloads.pull(uri, folder)
    number, digest = version.number, version.weights_sha256
    if arguments.json:
        document = {"folder": str(folder), "version": number, "weights_sha256": digest}
        console.print_json(document)
    else:
        print(f"{folder}: version {number}, sha256 {digest[:12]}…")
    return 0


def trace(arguments: argparse.Namespace) -> int:
    """Print the version and its ancestors, newest first."""
    from songcast.commands.loading import require_registry
    from songcast.registry.versions import find_version, list_versions
    from songcast.report import console

    require_registry(arguments.uri)
    known = {version.number: version for version in list_versions()}
    version: Version | None = find_version(arguments.uri)
    chain: list[Version] = []
    while version and version not in chain:
        chain.append(version)
        version = known.get(int(version.lineage.get("parent_version") or 0))
    if arguments.json:
        console.print_json({"chain": [as_json(version) for version in chain]})
        return 0
    for place, version in enumerate(chain):
        heading = f"{version.uri} ({', '.join([version.kind, *version.aliases])})"
        print(("\nretrained from " if place else "") + heading)
        for name, value in lines(version.lineage, version.run_id):
            print(f"  {name:<12}{value}")
    return 0


def as_json(version: "Version") -> dict[str, Any]:
    """Return a version as an entry of the JSON document."""
    from songcast.tracking.lineage import ORIGIN

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
    from songcast.commands.loading import require_registry
    from songcast.registry import reproduction
    from songcast.report import console

    require_registry(arguments.uri)
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

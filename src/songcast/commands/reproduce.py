"""`songcast reproduce`: build a version again and compare."""

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from songcast.commands import Subparsers, add_command

if TYPE_CHECKING:
    from songcast.registry.reproduction import Reproduction

DIFFERENT = 1


def add(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "reproduce",
        run,
        "build a version again and compare weights and metrics",
        "Checks its commit out into a scratch folder, restores params, songs and environment, "
        "runs the pipeline without caches: as long as `make run` took. On the same hardware the "
        "weights must be identical; elsewhere every song within 0.02 bits per sample. Exit code "
        "1: it came out different.",
        "songcast reproduce models:/songcast@champion",
    )
    parser.add_argument("uri", metavar="URI", help="models:/songcast@champion, models:/songcast/3")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")


def run(arguments: argparse.Namespace) -> int:
    """Build it again."""
    from songcast.commands.forecasting import require_registry
    from songcast.registry import reproduction
    from songcast.report import console

    require_registry(arguments.uri)
    found = reproduction.reproduce(arguments.uri, console.note)
    if arguments.json:
        console.print_json({**asdict(found), "largest_bits": found.largest_bits})
    else:
        print_report(found)
    return DIFFERENT if found.verdict == "different" else 0


def print_report(found: "Reproduction") -> None:
    """Say what came of it."""
    code = f"commit {found.commit[:12]}"
    if found.dirty:
        code += " (it was trained with uncommitted changes, which are not recorded)"
    machine = "the same hardware" if found.same_hardware else "other hardware"
    print(f"{found.uri}: {found.verdict}")
    print(f"  {code}; {machine}; {found.environment}")
    print(f"  weights sha256 {found.weights_sha256}")
    print(f"  largest difference of a song: {found.largest_bits:.6f} bits per sample")

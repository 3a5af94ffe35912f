"""`songcast reproduce`: build a version again and compare."""

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from songcast.commands import URI_HELP, Subparsers, add_command

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
        "Checks out its commit into a temporary folder, restores params, songs and environment, "
        "and runs the pipeline without caches, which takes as long as `make run` did. On the same "
        "hardware, the weights must be identical; on other hardware, every song must be within "
        "0.02 bits per sample. Exit code 1: the result is different.",
        "songcast reproduce models:/songcast@champion",
    )
    parser.add_argument("uri", metavar="URI", help=URI_HELP)


def run(arguments: argparse.Namespace) -> int:
    """Build it again."""
    from songcast.commands.loading import require_registry
    from songcast.registry import reproduction
    from songcast.report import console

    require_registry(arguments.uri)
    result = reproduction.reproduce(arguments.uri, console.note)
    if arguments.json:
        console.print_json({**asdict(result), "largest_bits": result.largest_bits})
    else:
        print_report(result)
    return DIFFERENT if result.verdict == "different" else 0


def print_report(result: "Reproduction") -> None:
    """Print the verdict and its reasons."""
    code = f"commit {result.commit[:12]}"
    if result.dirty:
        code += " (the original had uncommitted changes, which are not recorded)"
    machine = "the same hardware" if result.same_hardware else "other hardware"
    print(f"{result.uri}: {result.verdict}")
    print(f"  {code}; {machine}; {result.environment}")
    print(f"  weights sha256 {result.weights_sha256}")
    print(f"  largest difference of a song: {result.largest_bits:.6f} bits per sample")

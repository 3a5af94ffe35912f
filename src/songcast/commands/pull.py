"""`songcast pull`: copy a registered version into a folder."""

import argparse
from pathlib import Path

from songcast.commands import URI_HELP, Subparsers, add_command


def add(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "pull",
        run,
        "copy a registered version into a folder, with its model card",
        "Verifies the sha256 of the weights; on failure, no folder is written. The folder can be "
        "used as a model: `--model DIR`, `songcast.load(DIR)`. Without URI: the champion.",
        "songcast pull models:/songcast/3 my_model",
    )
    parser.add_argument("uri", metavar="URI", nargs="?", help=URI_HELP)
    parser.add_argument("folder", metavar="DIR", type=Path, help="a new folder")


def run(arguments: argparse.Namespace) -> int:
    """Copy the version."""
    from songcast.commands.loading import CHAMPION_URI, require_registry
    from songcast.registry import downloads
    from songcast.report import console

    uri = arguments.uri or CHAMPION_URI
    require_registry(uri)
    version = downloads.pull(uri, arguments.folder)
    digest = version.weights_sha256
    if arguments.json:
        document = {
            "folder": str(arguments.folder),
            "version": version.number,
            "weights_sha256": digest,
        }
        console.print_json(document)
    else:
        print(f"{arguments.folder}: version {version.number}, sha256 {digest[:12]}…")
    return 0

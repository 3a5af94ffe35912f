"""`songcast pull`: a registered version as a folder."""

import argparse
from pathlib import Path

from songcast.commands import Subparsers, add_command


def add(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "pull",
        run,
        "copy a registered version into a folder, with its model card",
        "The weights' sha256 is verified; the folder appears whole or not at all, and is a "
        "model by itself: `--model DIR`, `songcast.load(DIR)`. Without URI: the champion.",
        "songcast pull models:/songcast/3 my_model",
    )
    parser.add_argument("uri", metavar="URI", nargs="?", help="models:/songcast@champion, .../3")
    parser.add_argument("folder", metavar="DIR", type=Path, help="a new folder")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")


def run(arguments: argparse.Namespace) -> int:
    """Copy the version."""
    from songcast.commands.forecasting import CHAMPION_URI, require_registry
    from songcast.registry import files as registry_files
    from songcast.report import console

    uri = arguments.uri or CHAMPION_URI
    require_registry(uri)
    found = registry_files.pull(uri, arguments.folder)
    if arguments.json:
        console.print_json(
            {
                "folder": str(arguments.folder),
                "version": found.number,
                "weights_sha256": found.weights_sha256,
            }
        )
    else:
        print(f"{arguments.folder}: version {found.number}, sha256 {found.weights_sha256[:12]}…")
    return 0

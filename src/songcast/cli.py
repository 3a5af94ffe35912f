"""The command line.

Exit codes: 0 success, 2 invalid input or a full or inaccessible disk (one line on stderr),
130 interrupted, 1 a bug (with its traceback).
"""

import argparse
import io
import sys
from collections.abc import Sequence
from typing import NoReturn

import songcast
from songcast.commands import parsers
from songcast.errors import INVALID_INPUT, run_program
from songcast.forecasting.keras_backend import prepare_backend

COMMANDS = (
    parsers.add_song_commands,
    parsers.add_registry_commands,
    parsers.add_version_commands,
    parsers.add_pipeline_commands,
    parsers.add_server_commands,
)


class Parser(argparse.ArgumentParser):
    """An argument parser that reports errors in one line."""

    def error(self, message: str) -> NoReturn:
        """Print the line and exit with 2."""
        line = " ".join(message.split())
        print(f"{self.prog}: {line}; see `{self.prog} --help`", file=sys.stderr)
        sys.exit(INVALID_INPUT)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; ``arguments`` default to those of the process."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # the terminal may be unable to encode a name
            stream.reconfigure(errors="backslashreplace")
    prepare_backend()
    parsed = build_parser().parse_args(arguments)
    return run_program(f"songcast {parsed.command}", lambda: parsed.run(parsed))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = Parser(
        prog="songcast",
        description="Learns songs from their raw amplitude and predicts what comes next.",
        epilog="example:\n  songcast score song.mp3\n\n"
        "`songcast COMMAND --help` describes a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"songcast {songcast.__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for add in COMMANDS:
        add(subparsers)
    return parser


if __name__ == "__main__":
    sys.exit(main())

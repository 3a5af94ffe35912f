"""The command line.

Exit codes: 0 done, 2 the user's mistake, or a disk that is full or may not be written (one line
on stderr), 130 interrupted; an unexpected exception is our bug, keeps its traceback and exits
with 1.
"""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import songcast
from songcast.commands import (
    compare,
    continue_,
    history,
    models,
    predict,
    promote,
    pull,
    reproduce,
    rollback,
    score,
    serve,
    summary,
    sweep,
    sync,
    trace,
    ui,
)
from songcast.errors import SongcastError
from songcast.files import disk_fault
from songcast.forecasting.keras_backend import prepare_backend

COMMANDS = (
    score,
    predict,
    continue_,
    models,
    compare,
    promote,
    rollback,
    history,
    pull,
    trace,
    reproduce,
    sweep,
    sync,
    serve,
    ui,
    summary,
)
USER_MISTAKE, INTERRUPTED, CLOSED_PIPE = 2, 130, 141


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line."""

    def error(self, message: str) -> NoReturn:
        """Print the one line and exit with 2."""
        line = " ".join(message.split())
        print(f"{self.prog}: {line}; see `{self.prog} --help`", file=sys.stderr)
        sys.exit(USER_MISTAKE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that ``arguments`` (default: those of the process) name."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a song's name may not fit the terminal's code
            stream.reconfigure(errors="backslashreplace")
    prepare_backend()
    parsed = build_parser().parse_args(arguments)
    prog = f"songcast {parsed.command}"
    try:
        code: int = parsed.run(parsed)
        sys.stdout.flush()
    except SongcastError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return USER_MISTAKE
    except KeyboardInterrupt:
        print(f"{prog}: stopped", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader, `head` for one, has had enough
        _silence_stdout()
        return CLOSED_PIPE
    except Exception as error:
        line = disk_fault(error)
        if line is None:
            raise
        _silence_stdout()
        print(f"{prog}: {line}", file=sys.stderr)
        return USER_MISTAKE
    return code


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = Parser(
        prog="songcast",
        description="Learns songs from their raw amplitude and predicts what comes next.",
        epilog="example:\n  songcast score song.mp3\n\n`songcast COMMAND --help` tells the rest.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"songcast {songcast.__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(subparsers)
    return parser


def _silence_stdout() -> None:
    """Drop what is still buffered: Python would try, and complain, once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())

"""`songcast ui`: the MLflow UI on the embedded store."""

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from typing import IO

from songcast.commands import Subparsers, add_command
from songcast.errors import TrackingError

HOST, PORT = "127.0.0.1", 5000
ENDINGS = (signal.SIGTERM, signal.SIGHUP)


def add(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "ui",
        run,
        "open the MLflow UI on the embedded store",
        "It listens on this machine only, until Ctrl-C.",
        "songcast ui --port 5001",
    )
    parser.add_argument(
        "--port", type=port_number, default=PORT, help=f"where it listens (default: {PORT})"
    )


def port_number(text: str) -> int:
    """Parse a TCP port. Raises ``ArgumentTypeError``."""
    if not (text.isdecimal() and 1 <= int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is no port: give a number from 1 to 65535")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Serve the UI until it is stopped."""
    check_free(arguments.port)
    from songcast.tracking.store import ui_command

    command, environment, url = ui_command(arguments.port)
    with tempfile.TemporaryFile() as said, serving(command, environment, said) as server:
        try:
            while not answers(arguments.port):
                if server.poll() is not None:
                    raise TrackingError(f"the MLflow UI did not start: {last_line(said)}")
                time.sleep(0.1)
            print(f"MLflow UI: {url}  (Ctrl-C stops it)", flush=True)
            server.wait()
        except KeyboardInterrupt:
            return 0
        raise TrackingError(f"the MLflow UI ended by itself: {last_line(said)}")


def check_free(port: int, host: str = HOST, command: str = "ui") -> None:
    """Raise ``TrackingError`` where nothing can listen on ``port`` of ``host``."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:  # the latter for what no host can be called
        reason = getattr(error, "strerror", None) or error
        raise TrackingError(f"{host}: no address to listen on ({reason})") from None
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
        try:
            probe.bind(address)
        except OSError as error:
            other = port + 1 if port < 65535 else PORT
            raise TrackingError(
                f"port {port} cannot be used ({error.strerror}): "
                f"choose another, e.g. `songcast {command} --port {max(other, 1024)}`"
            ) from None


def answers(port: int) -> bool:
    """Tell whether something listens on ``port``."""
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


@contextlib.contextmanager
def serving(
    command: list[str], environment: dict[str, str], said: IO[bytes]
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run the server, its output going to ``said``; end it and its workers with the block.

    It has its own process group, so Ctrl-C reaches us alone and it ends without a traceback.
    Being told to end (SIGTERM, SIGHUP) ends it as Ctrl-C does.
    """
    before = {number: signal.signal(number, signal.default_int_handler) for number in ENDINGS}
    server = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=said,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield server
    finally:
        for how in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, how)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(timeout=5)
        for number, handler in before.items():
            signal.signal(number, handler)


def last_line(said: IO[bytes]) -> str:
    """Return the last words of the server."""
    said.seek(0)
    lines = said.read().decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "it said nothing"

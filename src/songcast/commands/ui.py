"""`songcast ui`: the MLflow UI on the embedded store."""

import argparse
import contextlib
import errno
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from typing import IO

from songcast.errors import TrackingError
from songcast.tracking import store

HOST = "127.0.0.1"
STOP_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


def run(arguments: argparse.Namespace) -> None:
    """Serve the UI until Ctrl-C."""
    check_free(arguments.port)
    command, environment, url = store.ui_command(arguments.port)
    with tempfile.TemporaryFile() as output, serving(command, environment, output) as server:
        try:
            while not answers(arguments.port):
                if server.poll() is not None:
                    raise TrackingError(f"the MLflow UI did not start: {last_line(output)}")
                time.sleep(0.1)
            print(f"MLflow UI: {url}  (Ctrl-C to stop)", flush=True)
            server.wait()
        except KeyboardInterrupt:
            return
        raise TrackingError(f"the MLflow UI stopped: {last_line(output)}")


def check_free(port: int, host: str = HOST, command: str = "ui") -> None:
    """Raise ``TrackingError`` if a server cannot listen on ``port`` of ``host``."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:  # the latter for an invalid name
        reason = getattr(error, "strerror", None) or error
        raise TrackingError(f"{host}: not an address to listen on ({reason})") from None
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise TrackingError(f"{host}: is not an address of this machine") from None
            other = max(port % 65535 + 1, 1024)
            raise TrackingError(
                f"port {port} cannot be used ({error.strerror}): "
                f"choose another, e.g. `songcast {command} --port {other}`"
            ) from None


def answers(port: int) -> bool:
    """Return whether a server listens on ``port``."""
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


@contextlib.contextmanager
def serving(
    command: list[str], environment: dict[str, str], output: IO[bytes]
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run the server with its output in ``output``; stop it and its workers after the block.

    The server has its own process group, so Ctrl-C reaches only this process and causes no
    traceback there. SIGTERM and SIGHUP have the same effect as Ctrl-C.
    """
    before = {number: signal.signal(number, signal.default_int_handler) for number in STOP_SIGNALS}
    server = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield server
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(timeout=5)
        for number, handler in before.items():
            signal.signal(number, handler)


def last_line(output: IO[bytes]) -> str:
    """Return the last line of the server's output."""
    output.seek(0)
    lines = output.read().decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "it printed nothing"

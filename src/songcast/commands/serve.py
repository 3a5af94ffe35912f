"""`songcast serve`: serve a model over HTTP, with a web page."""

import argparse
import contextlib
import logging
import os
import signal
import sys
import webbrowser
from typing import Any

import uvicorn

from songcast.commands.loading import CHAMPION_URI
from songcast.commands.ui import check_free
from songcast.files import root
from songcast.registry.live import records_path
from songcast.registry.models import REGISTRY_SCHEME
from songcast.registry.versions import NAME
from songcast.report.console import note
from songcast.serving.app import create_app
from songcast.serving.champion import Champion
from songcast.serving.idle import SurprisingSongs
from songcast.serving.jobs import Limits
from songcast.serving.security import is_loopback

TOKEN = "SONGCAST_TOKEN"


def run(arguments: argparse.Namespace) -> None:
    """Serve until SIGINT or SIGTERM; finish the requests in progress first."""
    check_free(arguments.port, arguments.host, "serve")
    logging.basicConfig(format="songcast serve: %(message)s", stream=sys.stderr)
    champion = Champion(arguments.model or CHAMPION_URI)
    shadow = f"{REGISTRY_SCHEME}{NAME}@{arguments.shadow}" if arguments.shadow else None
    token = os.environ.get(TOKEN) or None
    local = is_loopback(arguments.host)
    if token is None and not local:
        note(f"anyone who can reach {arguments.host} can use the model: set {TOKEN} to prevent it")
    limits = Limits.for_speed(champion.current.frames_per_second)
    keep = arguments.keep_surprising
    app = create_app(
        champion,
        limits,
        token,
        local=local,
        records=records_path(),
        shadow=Champion(shadow) if shadow else None,
        surprising=SurprisingSongs(root() / "served" / "surprising", keep) if keep else None,
    )
    with contextlib.suppress(KeyboardInterrupt):
        serve(app, arguments.host, arguments.port, limits.request_seconds, arguments.open)


def serve(app: Any, host: str, port: int, shutdown_seconds: float, open_page: bool = False) -> None:
    """Run the server until SIGINT or SIGTERM."""

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            if self.started:
                shown = f"[{host}]" if ":" in host else host
                url = f"http://{shown}:{port}"
                print(f"songcast is serving at {url}  (Ctrl-C to stop)", flush=True)
                if open_page:
                    webbrowser.open(url)

    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=round(shutdown_seconds),
    )
    # uvicorn handles the signal and then raises it again, which must not end in a traceback.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    Server(config).run()

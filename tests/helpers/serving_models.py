"""A quick model with all that is served, and a server around it, for tests. Not a test module."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import uvicorn
from numpy.typing import NDArray

from songcast.audio.songs import Song
from songcast.errors import ContinuationError
from songcast.forecasting.baselines import Persistence
from songcast.serving.app import create_app
from songcast.serving.champion import Champion, ServedModel
from songcast.serving.jobs import Limits


class Echo(Persistence):
    """Expects the last sample again, and goes on with noise around the song's own level.

    ``delay_seconds``: how long each block of a continuation takes.
    """

    name = "echo"

    def __init__(self, delay_seconds: float = 0.0) -> None:
        self.delay_seconds = delay_seconds
        self.blocks = 0

    def stream_song(
        self, song: Song, seconds: float, temperature: float, seed: int
    ) -> Iterator[NDArray[np.int16]]:
        if song.frames < 100:
            raise ContinuationError(f"{song.name}: too short to go on from: 100 frames at least")
        return self._blocks(song, max(1, round(seconds * song.sample_rate_hz)), temperature, seed)

    def _blocks(
        self, song: Song, frames: int, temperature: float, seed: int
    ) -> Iterator[NDArray[np.int16]]:
        rng = np.random.default_rng(seed)
        for start in range(0, frames, 1000):
            time.sleep(self.delay_seconds)
            self.blocks += 1
            shape = (min(1000, frames - start), song.channels)
            yield (rng.normal(0, 1000 * temperature, shape)).astype(np.int16)


class Still(Champion):
    """Serves one model that is no registered version."""

    def __init__(self, model: Any) -> None:
        self.uri, self.reloads = "echo", 0
        self._stopping, self._watcher = threading.Event(), threading.Thread()
        self.current = ServedModel(
            model=model,
            uri="echo",
            alias=None,
            version=None,
            commit=None,
            weights_sha256=None,
        )


def app_of(
    model: Any, limits: Limits | None = None, token: str | None = None, *, local: bool = False
) -> Any:
    return create_app(Still(model), limits or Limits(), token, local=local)


@contextlib.contextmanager
def running(app: Any) -> Iterator[httpx.Client]:
    """Serve ``app`` on a real socket; gives a client of it."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        try:
            with httpx.Client(base_url=url, timeout=300, trust_env=False) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join()

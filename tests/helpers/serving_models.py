"""A fast model for serving tests, and a server around it."""

import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import httpx
import numpy as np
import uvicorn
from numpy.typing import NDArray

from songcast.audio.songs import Song, base64_of
from songcast.errors import ContinuationError
from songcast.forecasting.baselines import Persistence
from songcast.forecasting.distribution import Distribution
from songcast.forecasting.forecaster import ForecastSession
from songcast.serving.app import create_app
from songcast.serving.champion import Champion, ServedModel
from songcast.serving.jobs import Limits

TONE = np.rint(8000 * np.sin(2 * np.pi * 440 * np.arange(800) / 16_000)).astype(np.int16)
# As a client sends it: base64 of a wav, 50 ms of 440 Hz, 16 kHz mono.
SONG = base64_of(Song(samples=TONE[:, None], sample_rate_hz=16_000, name="tone"), "wav")


class Echo(Persistence):
    """Forecasts the last sample; continues songs with noise.

    ``delay_seconds``: computing time of each block of a continuation.
    """

    name = "echo"

    def __init__(self, delay_seconds: float = 0.0) -> None:
        self.delay_seconds = delay_seconds
        self.blocks = 0

    def stream_song(
        self, song: Song, seconds: float, temperature: float, seed: int
    ) -> Iterator[NDArray[np.int16]]:
        if song.frames < 100:
            raise ContinuationError(f"{song.name}: too short: send a song of 100 frames or more")
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


class Last(Distribution):
    """The last sample, with 8 bits for each: takes no computing time."""

    def __init__(self, mean: NDArray[np.float64]) -> None:
        self._mean = mean

    @property
    def mean(self) -> NDArray[np.float64]:
        return self._mean

    def bits(self, samples: NDArray[np.int16]) -> NDArray[np.float64]:
        return np.full(samples.shape, 8.0)

    def masses(self, frame: int, channel: int) -> NDArray[np.float64]:
        raise NotImplementedError


class Slow(Echo):
    """Forecasts the last sample; each block takes ``block_seconds`` of waiting."""

    def __init__(self, block_seconds: float) -> None:
        super().__init__()
        self.block_seconds = block_seconds
        self.forecast_blocks = 0

    def session(self, channels: int) -> "SlowSession":
        return SlowSession(self, channels)


class SlowSession(ForecastSession):
    """A session of ``Slow``."""

    def __init__(self, model: Slow, channels: int) -> None:
        self._model, self._last = model, np.zeros((1, channels))

    def forecast_block(self, samples: NDArray[np.int16]) -> Last:
        time.sleep(self._model.block_seconds)
        self._model.forecast_blocks += 1
        x = np.concatenate([self._last, samples])
        self._last = x[-1:]
        return Last(x[:-1])


class FixedModel(Champion):
    """Serves one model that is not registered."""

    def __init__(self, model: Any) -> None:
        self.uri, self.reloads = "echo", 0
        self._stopping, self._watcher = threading.Event(), threading.Thread()
        self.current = ServedModel(
            model=model, uri="echo", pinned_uri="echo", frames_per_second=96_000.0
        )


def app_of(
    model: Any, limits: Limits | None = None, token: str | None = None, **options: Any
) -> Any:
    return create_app(FixedModel(model), limits or Limits(), token, **options)


@contextlib.contextmanager
def running(app: Any) -> Iterator[httpx.Client]:
    """Serve ``app`` on a socket; yield a client."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        # Configuring logging closes all handlers; absl's would close the stream of pytest.
        with mock.patch("logging.shutdown"):
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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def songcast_serve(*arguments: str, **options: Any) -> Iterator[tuple[Any, httpx.Client]]:
    """Run `songcast serve`; yield its process and a client; end it by SIGTERM."""
    port = str(free_port())
    command = [sys.executable, "-m", "songcast.cli", "serve", "--port", port, *arguments]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300, trust_env=False) as client,
    ):
        try:
            line = process.stdout.readline()  # type: ignore[union-attr]
            assert line == f"songcast is serving at http://127.0.0.1:{port}  (Ctrl-C to stop)\n"
            yield process, client
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=300) == 0

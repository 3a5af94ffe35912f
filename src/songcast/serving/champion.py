"""The served model, which is replaced when its alias moves."""

import gc
import logging
import math
import threading
import time
from dataclasses import dataclass

import numpy as np

from songcast.audio.songs import Song
from songcast.errors import SongcastError
from songcast.forecasting.distribution import BLOCK_FRAMES
from songcast.registry.comparison import BITS, number_in
from songcast.registry.models import REGISTRY_SCHEME, Model, load

log = logging.getLogger("songcast.serve")

POLL_SECONDS = 2.0
SPEED_BLOCKS, SPEED_PASSES = 6, 2


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A loaded model, its speed and its identity; most is unknown for an unregistered model.

    ``frames_per_second``: frames of stereo that it forecasts in a CPU second.
    ``pinned_uri``: the version, such as ``models:/songcast/3``, or ``uri``. ``expected_bits``: its
    mean on held-out passages, NaN if unknown.
    """

    model: Model
    uri: str
    frames_per_second: float
    pinned_uri: str
    expected_bits: float = math.nan
    alias: str | None = None
    version: int | None = None
    commit: str | None = None
    weights_sha256: str | None = None


class Champion:
    """Keeps the model that ``uri`` names in ``current``.

    A request reads ``current`` once. When the alias moves, requests in progress finish with the
    model they started with.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.reloads = 0
        self._stopping = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="champion")
        self.current = load_served(uri)

    def __enter__(self) -> "Champion":
        if self.current.alias is not None:  # version numbers and folders do not move
            self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        if self._watcher.is_alive():
            self._watcher.join()  # loading a model cannot be interrupted safely

    def refresh(self) -> bool:
        """Reload the model if the alias names another version; return whether it did.

        Raises ``SongcastError`` and keeps the current model if the new one cannot be loaded.
        """
        from songcast.registry.versions import get_alias

        version = get_alias(str(self.current.alias))
        if version is None or version == self.current.version:
            return False
        self.current = load_served(self.uri)
        self.reloads += 1
        gc.collect()  # a Keras network is a reference cycle that holds about 10 MB
        return True

    def _watch(self) -> None:
        previous = ""
        while not self._stopping.wait(POLL_SECONDS):
            try:
                if self.refresh():
                    log.warning("now serving version %s", self.current.version)
                previous = ""
            except Exception as error:  # an invalid version must not end the server
                is_bug = not isinstance(error, SongcastError)
                message = repr(error) if is_bug else str(error)
                if message != previous:  # log it once, not every two seconds
                    version = self.current.version
                    log.warning("still serving version %s: %s", version, message, exc_info=is_bug)
                previous = message


def load_served(uri: str) -> ServedModel:
    """Load the model that ``uri`` names, verify its sha256 and warm it up.

    Raises ``SongcastError`` as ``songcast.load`` does.
    """
    if not uri.startswith(REGISTRY_SCHEME):
        model = load_warm(uri)
        return ServedModel(model=model, uri=uri, pinned_uri=uri, frames_per_second=speed(model))
    from songcast.registry.versions import URI, find_version

    version = find_version(uri)
    match = URI.fullmatch(uri)
    model = load_warm(version.uri)  # by number, because the alias may move meanwhile
    return ServedModel(
        model=model,
        uri=uri,
        frames_per_second=speed(model),
        pinned_uri=version.uri,
        expected_bits=number_in(version.evaluation.get("summary") or {}, BITS),
        alias=match["alias"] if match else None,
        version=version.number,
        commit=version.lineage.get("git_commit"),
        weights_sha256=version.weights_sha256,
    )


def load_warm(uri: str) -> Model:
    """Load a model and forecast one block, so that no request waits for a compiler."""
    model = load(uri)
    for channels in (1, 2):
        samples = np.zeros((BLOCK_FRAMES, channels), np.int16)
        model.forecast(Song(samples=samples, sample_rate_hz=44100, name="silence"))
    return model


def speed(model: Model) -> float:
    """Measure how many frames of stereo ``model`` forecasts in a CPU second of this process.

    Other programs make CPU time little longer, and the limits that follow from it stay when they
    end.
    """
    rng = np.random.default_rng(0)
    samples = rng.normal(0, 3000, (SPEED_BLOCKS * BLOCK_FRAMES, 2)).astype(np.int16)
    song = Song(samples=samples, sample_rate_hz=44100, name="noise")
    seconds = []
    for _ in range(SPEED_PASSES):
        start = time.process_time()
        model.forecast(song)
        seconds.append(time.process_time() - start)
    return len(samples) / min(seconds)

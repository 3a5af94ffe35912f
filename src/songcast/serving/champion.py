"""The model being served: one at a time, changed when its alias moves."""

import logging
import threading
from dataclasses import dataclass

import numpy as np

from songcast.audio.songs import Song
from songcast.errors import SongcastError
from songcast.forecasting.distribution import BLOCK_FRAMES
from songcast.forecasting.forecaster import Forecaster
from songcast.forecasting.keras_backend import quiet_startup
from songcast.registry.models import REGISTRY_SCHEME, load
from songcast.serving.heap import sweep

log = logging.getLogger("songcast.serve")

POLL_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class Served:
    """The loaded model and what it is. ``version``, ``commit``: None for what is no version."""

    model: Forecaster
    uri: str
    alias: str | None
    version: int | None
    commit: str | None
    weights_sha256: str | None


class Champion:
    """Keeps ``current`` what ``uri`` names.

    A request takes ``current`` once and keeps it: when the alias moves, those under way finish
    with the model they began with.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.reloads = 0
        self._stopping = threading.Event()
        self._watch = threading.Thread(target=self._follow, name="champion")
        self.current = load_served(uri)

    def __enter__(self) -> "Champion":
        if self.current.alias is not None:  # a number or a folder stays what it is
            self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        if self._watch.is_alive():
            self._watch.join()  # a model being loaded cannot be interrupted safely

    def refresh(self) -> bool:
        """Load what the alias names now, if that is another version, and tell whether it was.

        Raises ``SongcastError``; then the present model stays.
        """
        from songcast.registry import alias

        now = alias(str(self.current.alias))
        if now is None or now == self.current.version:
            return False
        self.current = load_served(self.uri)
        self.reloads += 1
        sweep()
        return True

    def _follow(self) -> None:
        complaint = ""
        while not self._stopping.wait(POLL_SECONDS):
            try:
                if self.refresh():
                    log.warning("now serving version %s", self.current.version)
                complaint = ""
            except Exception as error:
                # Whatever a version's files may raise: the next one may be sound.
                ours = isinstance(error, SongcastError)
                said = str(error) if ours else repr(error)
                if said != complaint:  # once, not every two seconds
                    complaint = said
                    log.warning(
                        "version %s stays: %s", self.current.version, said, exc_info=not ours
                    )


def load_served(uri: str) -> Served:
    """Load the model that ``uri`` names, sha256 verified, and warm it up.

    Raises ``SongcastError`` as ``songcast.load`` does.
    """
    if not uri.startswith(REGISTRY_SCHEME):
        return Served(
            model=warm(uri), uri=uri, alias=None, version=None, commit=None, weights_sha256=None
        )
    from songcast import registry

    found = registry.named(uri)
    match = registry.URI.fullmatch(uri)
    return Served(
        model=warm(found.uri),  # by number: the alias may move meanwhile
        uri=uri,
        alias=match["alias"] if match else None,
        version=found.number,
        commit=found.tags.get("songcast.git_commit"),
        weights_sha256=found.weights_sha256,
    )


def warm(uri: str) -> Forecaster:
    """Load a model and let it forecast a moment, so that no client waits for compilers."""
    with quiet_startup():
        model = load(uri)
    for channels in (1, 2):
        samples = np.zeros((BLOCK_FRAMES, channels), np.int16)
        silence = Song(samples=samples, sample_rate_hz=44100, name="silence")
        model.forecast(silence)
    return model

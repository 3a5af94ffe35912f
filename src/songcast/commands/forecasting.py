"""What the commands share that need a model: loading it, and forecasting while a bar moves."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from songcast import files
from songcast.audio.songs import Song
from songcast.bundle import read_manifest
from songcast.errors import RegistryError
from songcast.forecasting.distribution import LogisticMixture
from songcast.forecasting.forecaster import Forecast, Forecaster, ForecastSession
from songcast.forecasting.keras_backend import quiet_startup
from songcast.registry import CHAMPION, NAME
from songcast.registry.models import REGISTRY_SCHEME, Model, load
from songcast.tracking.store import database, tracking_uri

CHAMPION_URI = f"{REGISTRY_SCHEME}{NAME}@{CHAMPION}"
FITTED = ("ridge", "notebook")

Update = Callable[..., None]  # of console.progress


def load_model(uri: str) -> Model:
    """Return the forecaster that ``uri`` names, its files verified.

    Raises ``SongcastError`` as ``songcast.load`` does, and never creates a registry.
    """
    check_model(uri)
    with quiet_startup():
        return load(uri)


def check_model(uri: str) -> None:
    """Raise ``SongcastError`` for a model that is visibly not there, before anything is loaded."""
    if uri.startswith(REGISTRY_SCHEME):
        require_registry(uri)
    folder = fitted_folder(uri) if uri in FITTED else Path(uri)
    if folder.is_dir():
        read_manifest(folder)


def fitted_folder(name: str) -> Path:
    """Return the bundle folder that ``songcast.load`` takes for ridge or notebook."""
    return Path(name) if Path(name).is_dir() else files.root() / files.MODELS / name


def has_registry() -> bool:
    """Tell whether there is a store to ask; looking must not create one."""
    file = database(tracking_uri())
    return file is None or file.is_file()


def require_registry(uri: str = f"{REGISTRY_SCHEME}{NAME}") -> None:
    """Raise ``RegistryError`` where no store holds any model."""
    if not has_registry():
        raise RegistryError(
            f"{uri}: no model is registered yet: `make run` in the repository registers models"
        )


def forecast(model: Forecaster, song: Song, what: str, update: Update) -> Forecast:
    """Forecast ``song`` and report each block to ``update``, see ``console.progress``."""
    if type(model).forecast is not Forecaster.forecast:
        return model.forecast(song)
    return _Watched(model, what, update).forecast(song)


def clipped_mean(result: Forecast, like: Song) -> Song:
    """Return the predicted song: the mean, rounded and limited to int16."""
    limits = np.iinfo(np.int16)
    samples = np.clip(np.rint(result.mean), limits.min, limits.max).astype(np.int16)
    return Song(samples=samples, sample_rate_hz=like.sample_rate_hz, name=like.name)


class _Watched(Forecaster):
    """A forecaster whose progress is seen."""

    def __init__(self, model: Forecaster, what: str, update: Update) -> None:
        self.name = model.name
        self._model, self._what, self._update = model, what, update

    def session(self, channels: int, sample_rate_hz: int) -> ForecastSession:
        inner = self._model.session(channels, sample_rate_hz)

        def heard(frames: int) -> None:
            self._update(description=self._what, advance=frames / sample_rate_hz)

        return _WatchedSession(inner, heard)


class _WatchedSession(ForecastSession):
    def __init__(self, inner: ForecastSession, heard: Callable[[int], None]) -> None:
        self._inner, self._heard = inner, heard

    def forecast_block(self, samples: NDArray[np.int16]) -> LogisticMixture:
        return self.decode(self.encode(samples))

    def encode(self, samples: NDArray[np.int16]) -> Any:
        return self._inner.encode(samples)

    def decode(self, encoded: Any) -> LogisticMixture:
        mixture = self._inner.decode(encoded)
        self._heard(len(mixture.locations))
        return mixture

"""Models for the commands: checked and loaded by URI, and run with a progress bar."""

from collections.abc import Callable
from pathlib import Path

from songcast import files
from songcast.audio.songs import Song
from songcast.bundle import read_manifest
from songcast.errors import RegistryError
from songcast.forecasting.forecaster import Forecast, Forecaster
from songcast.registry.aliases import CHAMPION, NAME
from songcast.registry.models import REGISTRY_SCHEME, Model, load
from songcast.tracking.embedded import database
from songcast.tracking.store import tracking_uri

CHAMPION_URI = f"{REGISTRY_SCHEME}{NAME}@{CHAMPION}"
FITTED = ("ridge", "notebook")

Update = Callable[..., None]  # of console.progress


def load_model(uri: str) -> Model:
    """Return the model of ``uri``, its files verified.

    Raises ``SongcastError`` as ``songcast.load`` does. Does not create a registry.
    """
    check_model(uri)
    return load(uri)


def check_model(uri: str) -> None:
    """Raise ``SongcastError`` for a model that does not exist, without loading anything."""
    if uri.startswith(REGISTRY_SCHEME):
        require_registry(uri)
    folder = fitted_folder(uri) if uri in FITTED else Path(uri)
    if folder.is_dir():
        read_manifest(folder)


def fitted_folder(name: str) -> Path:
    """Return the bundle folder that ``songcast.load`` uses for ridge or notebook."""
    return Path(name) if Path(name).is_dir() else files.root() / files.MODELS / name


def has_registry() -> bool:
    """Return whether a tracking store exists, without creating one."""
    file = database(tracking_uri())
    return file is None or file.is_file()


def require_registry(uri: str = f"{REGISTRY_SCHEME}{NAME}") -> None:
    """Raise ``RegistryError`` if there is no tracking store."""
    if not has_registry():
        raise RegistryError(
            f"{uri}: no model is registered yet: `make demo` or `make run` registers models"
        )


def forecast(model: Forecaster, song: Song, label: str, update: Update) -> Forecast:
    """Forecast ``song`` and report each block to ``update``, see ``console.progress``."""

    def on_block(frames: int) -> None:
        update(description=label, advance=frames / song.sample_rate_hz)

    return model.forecast(song, on_block)

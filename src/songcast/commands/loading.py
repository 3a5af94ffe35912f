"""Models for the commands: checked and loaded by URI, and run with a progress bar."""

import os
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from songcast.audio.conversion import Samples
from songcast.audio.formats import printable
from songcast.audio.reading import SongReader, open_song
from songcast.audio.songs import SongWarning
from songcast.bundle import read_manifest
from songcast.errors import RegistryError
from songcast.forecasting.distribution import to_int16
from songcast.forecasting.forecaster import Forecaster
from songcast.forecasting.loading import bundle_folder
from songcast.forecasting.metrics import RunningMeasures
from songcast.registry.models import REGISTRY_SCHEME, Model, load
from songcast.registry.versions import CHAMPION, NAME
from songcast.tracking.embedded import database
from songcast.tracking.store import tracking_uri

CHAMPION_URI = f"{REGISTRY_SCHEME}{NAME}@{CHAMPION}"

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
    folder = bundle_folder(uri)
    if folder.is_dir():
        read_manifest(folder)


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


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The measures of a song that was forecast in a stream, and the seconds that it took."""

    name: str
    channels: int
    sample_rate_hz: int
    measures: RunningMeasures
    seconds: float


def forecast(
    model: Forecaster,
    path: str | os.PathLike[str],
    label: str,
    update: Update,
    write: Callable[[Iterator[Samples], SongReader], None] | None = None,
) -> Measured:
    """Forecast the song in a file block by block, in memory that does not grow with its length.

    Reports each block to ``update``, see ``console.progress``. ``write`` receives the predicted
    blocks and the open song. Gives one ``SongWarning`` as ``read_song`` does; raises
    ``AudioError``. The seconds include decoding.
    """
    start = time.perf_counter()
    with open_song(path) as reader:
        measures = RunningMeasures(reader.channels)
        name = printable(Path(reader.path.name))

        def predicted() -> Iterator[Samples]:
            blocks = model.stream(reader.blocks(), reader.channels, reader.sample_rate_hz)
            for block, distribution in blocks:
                measures.add(block, mean := distribution.mean, distribution.bits(block))
                seconds = len(block) / reader.sample_rate_hz
                update(description=f"{name}, {label}", advance=seconds)
                yield to_int16(mean)

        if write:
            write(predicted(), reader)
        else:
            for _ in predicted():
                pass
    if reader.damage:
        warnings.warn(f"{printable(reader.path)}: {reader.damage}", SongWarning, stacklevel=2)
    return Measured(
        name=name,
        channels=reader.channels,
        sample_rate_hz=reader.sample_rate_hz,
        measures=measures,
        seconds=time.perf_counter() - start,
    )

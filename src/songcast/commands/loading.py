"""Models for the commands: checked and loaded by URI, and run with a progress bar."""

import os
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from songcast.audio.conversion import Samples
from songcast.audio.formats import printable
from songcast.audio.reading import SongReader, open_song
from songcast.audio.songs import SongWarning
from songcast.bundle import read_manifest
from songcast.forecasting.loading import bundle_folder
from songcast.forecasting.metrics import RunningMeasures
from songcast.registry.models import REGISTRY_SCHEME, Model, load, predictions
from songcast.registry.versions import CHAMPION, NAME
from songcast.tracking.embedded import database
from songcast.tracking.store import tracking_uri

CHAMPION_URI = f"{REGISTRY_SCHEME}{NAME}@{CHAMPION}"

Update = Callable[..., None]  # of console.progress


def load_model(uri: str) -> Model:
    """Return the model of ``uri``, its files verified.

    Raises ``SongcastError`` as ``songcast.load`` does. Does not create a registry.
    """
    folder = bundle_folder(uri)
    if folder.is_dir():
        read_manifest(folder)
    return load(uri)


def has_registry() -> bool:
    """Return whether a tracking store exists, without creating one."""
    file = database(tracking_uri())
    return file is None or file.is_file()


def declared_seconds(paths: Iterable[str]) -> float:
    """Return the duration of songs by their headers, to reject invalid files before any work."""
    seconds = 0.0
    for path in paths:
        with open_song(path) as reader:
            seconds += reader.declared_seconds
    return seconds


def forecast(
    model: Model,
    path: str | os.PathLike[str],
    label: str,
    update: Update,
    write: Callable[[Iterator[Samples], SongReader], None] | None = None,
) -> tuple[SongReader, RunningMeasures, float]:
    """Forecast the song in a file block by block, in memory that does not grow with its length.

    Reports each block to ``update``, see ``console.progress``. ``write`` receives the predicted
    blocks and the open song. Gives one ``SongWarning`` as ``read_song`` does; raises
    ``AudioError``. Returns the song, its measures, and the seconds that it took, with decoding.
    """
    start = time.perf_counter()
    with open_song(path) as song:
        measures = RunningMeasures(song.channels)
        name = printable(Path(song.path.name))

        def predicted() -> Iterator[Samples]:
            for block, mean in predictions(model, song.blocks(), song, measures):
                update(description=f"{name}, {label}", advance=len(block) / song.sample_rate_hz)
                yield mean

        if write:
            write(predicted(), song)
        else:
            deque(predicted(), maxlen=0)
    if song.damage:
        warnings.warn(f"{printable(song.path)}: {song.damage}", SongWarning, stacklevel=2)
    return song, measures, time.perf_counter() - start

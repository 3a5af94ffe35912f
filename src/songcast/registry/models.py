"""From a name to a model: registry URIs, bundle folders and the baselines."""

from collections.abc import Generator, Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from songcast.audio.conversion import Samples
from songcast.audio.reading import SongReader
from songcast.audio.songs import Song
from songcast.bundle import CONTINUATION, MANIFEST
from songcast.errors import ContinuationError
from songcast.forecasting.distribution import to_int16
from songcast.forecasting.forecaster import Forecaster, ForecastSession
from songcast.forecasting.loading import bundle_folder, load_forecaster
from songcast.forecasting.metrics import RunningMeasures

if TYPE_CHECKING:
    from songcast.continuation.model import ContinuationModel, Stream

REGISTRY_SCHEME = "models:/"


class Model(Forecaster):
    """A forecaster, together with the continuation model that belongs to it.

    ``continuation_folder``: the bundle of the continuation model; None for a model that only
    forecasts.
    """

    def __init__(self, forecaster: Forecaster, continuation_folder: Path | None = None) -> None:
        self.forecaster = forecaster
        self.name = forecaster.name
        self.warm_up_frames = forecaster.warm_up_frames
        self._continuation_folder = continuation_folder

    def session(self, channels: int) -> ForecastSession:
        """Start a forecast of a song from its first frame."""
        return self.forecaster.session(channels)

    def continue_song(
        self, song: Song, seconds: float = 5.0, temperature: float = 1.0, seed: int = 0
    ) -> Song:
        """Return the next ``seconds`` of ``song``: the continuation only, clipped to int16.

        ``temperature``: 0 is greedy, 1 is as learned, higher is more random. The same ``seed``
        gives the same samples. Raises ``ContinuationError``.
        """
        return self.continuation.continue_song(song, seconds, temperature, seed)

    def stream_song(
        self, song: Song, seconds: float = 5.0, temperature: float = 1.0, seed: int = 0
    ) -> "Stream":
        """Return the continuation of ``song`` block by block, as it is generated.

        The blocks are (frames, channels) int16. Together they equal the result of
        ``continue_song``. Raises ``ContinuationError`` at once.
        """
        return self.continuation.stream_song(song, seconds, temperature, seed)

    @cached_property
    def continuation(self) -> "ContinuationModel":
        """The continuation model, loaded at first use. Raises ``ContinuationError``."""
        from songcast.continuation.model import ContinuationModel

        if self._continuation_folder is None:
            raise ContinuationError(
                f"{self.name} forecasts and cannot continue songs: use a bundle of `make run`, "
                "such as models/train, or a registered version"
            )
        return ContinuationModel.load(self._continuation_folder)


def predictions(
    model: Forecaster, parts: Iterable[Samples], song: Song | SongReader, measures: RunningMeasures
) -> Generator[tuple[Samples, Samples]]:
    """Yield the blocks of ``song``, which arrives in ``parts``, and their predictions as int16.

    Adds each block to ``measures``.
    """
    for block, distribution in model.stream(parts, song.channels):
        mean = distribution.mean
        measures.add(block, mean, distribution.bits(block))
        yield block, to_int16(mean)


def load(uri: str | Path) -> Model:
    """Return the model that ``uri`` names.

    ``models:/songcast@champion`` or ``models:/songcast/3``: a registered version. A folder such
    as ``models/train``: a bundle; the continuation model is its sub-folder or its sibling
    ``continuation``. ``persistence`` and ``cascade`` need no training; ``ridge`` and
    ``notebook`` are the bundles that `make run` wrote. Raises ``BundleError`` or
    ``RegistryError``.

    >>> load("persistence").name
    'persistence'
    """
    folder = locate(uri)
    forecaster = load_forecaster(folder if str(uri).startswith(REGISTRY_SCHEME) else uri)
    if forecaster.name != "lstm":
        return Model(forecaster)
    places = (folder / CONTINUATION, folder.absolute().parent / CONTINUATION)
    return Model(forecaster, next((p for p in places if (p / MANIFEST).is_file()), None))


def pin(uri: str) -> str:
    """Return the URI of the version that an alias names at present; other names as they are.

    ``models:/songcast@champion`` becomes, for example, ``models:/songcast/3``. Raises
    ``RegistryError`` where there is no such version.
    """
    if not is_alias(uri):
        return uri
    from songcast.registry.versions import find_version

    return find_version(uri).uri


def is_alias(uri: str) -> bool:
    """Whether ``uri`` names a registered version by an alias, which may move."""
    return uri.startswith(REGISTRY_SCHEME) and "@" in uri


def locate(uri: str | Path) -> Path:
    """Return the bundle folder that ``uri`` names. Raises ``RegistryError`` for a bad version."""
    if str(uri).startswith(REGISTRY_SCHEME):
        from songcast.registry.downloads import resolve

        return resolve(str(uri))
    return bundle_folder(uri)

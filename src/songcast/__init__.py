"""songcast learns songs from their raw amplitude and predicts what comes next.

>>> import songcast
>>> song = songcast.read_song("song.mp3")                    # doctest: +SKIP
>>> model = songcast.load("models:/songcast@champion")       # doctest: +SKIP
>>> model.forecast(song).prediction_gain_db                  # doctest: +SKIP
array([48.1, 47.3])
"""

import importlib
from typing import TYPE_CHECKING, Any

from songcast.errors import SongcastError

if TYPE_CHECKING:
    from songcast.audio.songs import Song, read_song, write_song
    from songcast.registry.models import load

__all__ = ["Song", "SongcastError", "load", "read_song", "write_song"]
__version__ = "0.2.0"

# NumPy and SciPy load with the first use, so that `songcast --help` answers at once (PEP 562).
_HOMES = {
    "Song": "songcast.audio.songs",
    "load": "songcast.registry.models",
    "read_song": "songcast.audio.songs",
    "write_song": "songcast.audio.songs",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

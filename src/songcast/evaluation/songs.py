"""One song's part of the evaluation: what is measured of it, and what is heard. Writes nothing."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from songcast.continuation.conditioning import Prompt
from songcast.continuation.holdout import first_holdout_frame
from songcast.continuation.model import ContinuationModel
from songcast.data.corpus import TEST, PreparedSong
from songcast.evaluation.continuations import measure_song
from songcast.evaluation.forecasts import forecast_passage, measure
from songcast.forecasting.forecaster import Forecaster
from songcast.forecasting.keras_backend import import_keras
from songcast.forecasting.loading import load_forecaster as load

FITTED = ("train", "retrain")
# Which forecast is heard as which file.
LISTENED = {
    "train": "pred_song.wav",
    "retrain": "pred_song_updated.wav",
    "notebook": "pred_notebook.wav",
}
ORIGINAL, CONTINUED = "original.wav", "continuation.wav"


@dataclass(frozen=True, kw_only=True)
class SongFound:
    """What was found of the song ``slug``.

    ``measures``: by forecaster, or by what continues. ``tracks``: by file name, (frames,
    channels) int16 each, all of the same frames of the unseen passage.
    """

    slug: str
    measures: dict[str, Any]
    tracks: dict[str, NDArray[np.int16]]


@functools.cache
def load_models(folder: Path) -> dict[str, Forecaster]:
    """Return all forecasters by their name in metrics/evaluation.json; once in each process."""
    import_keras()
    bundles = {name: load(folder / name) for name in ("ridge", "notebook", *FITTED)}
    return {
        "persistence": load("persistence"),
        "ridge": bundles["ridge"],
        "cascade": load("cascade"),
        "notebook": bundles["notebook"],
        "train": bundles["train"],
        "retrain": bundles["retrain"],
    }


@functools.cache
def load_continuation(folder: Path) -> ContinuationModel:
    """Return the continuation model in ``folder``; once in each process."""
    import_keras()
    return ContinuationModel.load(folder / "continuation")


def forecast_song(
    models: Mapping[str, Forecaster], song: PreparedSong, listening_seconds: float
) -> SongFound:
    """Measure all forecasters on the unseen passage; part of it is heard."""
    first, last = song.splits[TEST]
    found = forecast_passage(models, song.song(), first, last)
    start, stop = listened_frames(song, listening_seconds)
    heard = {
        name: forecast.passage(start - first, stop - first) for name, forecast in found.items()
    }
    tracks = {ORIGINAL: np.array(next(iter(heard.values())).samples)}
    for name, file in LISTENED.items():
        tracks[file] = heard[name].predicted
    measures = {name: measure(forecast) for name, forecast in found.items()}
    return SongFound(slug=song.slug, measures=measures, tracks=tracks)


def continue_song(
    model: ContinuationModel, song: PreparedSong, holdout_seconds: float, listening_seconds: float
) -> SongFound:
    """Measure continuations of the song's unheard end; hear one of its unseen passage."""
    start, stop = listened_frames(song, listening_seconds)
    prompt = Prompt(song.samples[:start], song.sample_rate_hz)
    track = model.generate(prompt, stop - start, temperature=1.0, seed=0)
    cut = first_holdout_frame(song, holdout_seconds)
    measures = measure_song(model, song, cut, holdout_seconds)
    return SongFound(slug=song.slug, measures=measures, tracks={CONTINUED: track})


def listened_frames(song: PreparedSong, listening_seconds: float) -> tuple[int, int]:
    """Return the frames [start, stop) that are heard: how the unseen passage begins.

    A song that is unseen from its first frame is heard from its middle on, where a continuation
    has a past to go on from.
    """
    start, stop = song.splits[TEST]
    start = start or stop // 2
    return start, min(start + round(listening_seconds * song.sample_rate_hz), stop)

"""The evaluation of one song: its measures, and its tracks for listening. Writes no files."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from songcast.config import EvaluateParams
from songcast.continuation.model import ContinuationModel
from songcast.continuation.prompt import Prompt
from songcast.data.corpus import TEST, Budget, PreparedSong, Span, first_holdout_frame
from songcast.evaluation.continuations import measure_continuations
from songcast.evaluation.forecasts import measure_passages
from songcast.forecasting.forecaster import Forecast, Forecaster
from songcast.forecasting.loading import UNTRAINED, load_forecaster

TRAINED = ("train", "retrain")
# The forecasts for listening and their files.
TRACKS = {
    "train": "pred_song.wav",
    "retrain": "pred_song_updated.wav",
    "notebook": "pred_notebook.wav",
}
ORIGINAL, CONTINUED = "original.wav", "continuation.wav"


@dataclass(frozen=True, kw_only=True)
class SongEvaluation:
    """The evaluation of the song ``slug``.

    ``measures``: by the name of the forecaster, or of the continuation model or baseline.
    ``tracks``: by file name, (frames, channels) int16 each, all of the same held-out frames.
    """

    slug: str
    measures: dict[str, Any]
    tracks: dict[str, NDArray[np.int16]]


@functools.cache
def load_models(folder: Path, names: tuple[str, ...]) -> dict[str, Forecaster]:
    """Return forecasters by name, loaded once in each process. Raises ``BundleError``."""
    return {n: load_forecaster(n if n in UNTRAINED else folder / n) for n in names}


@functools.cache
def load_continuation(folder: Path) -> ContinuationModel:
    """Return the continuation model in ``folder``, loaded once in each process."""
    return ContinuationModel.load(folder / "continuation")


def held_out(song: PreparedSong, params: EvaluateParams) -> list[Span]:
    """Return the passages of the test split to measure on, with the frame to start from."""
    budget = Budget.of(params, params.listening_seconds)
    return budget.spans(*song.splits[TEST], song.sample_rate_hz)


def forecast_song(
    models: Mapping[str, Forecaster], song: PreparedSong, params: EvaluateParams
) -> SongEvaluation:
    """Measure forecasters on the held-out passages; the beginning of one is for listening."""
    parts: dict[str, list[NDArray[np.int16]]] = {TRACKS[n]: [] for n in models if n in TRACKS}
    start, stop = listening_frames(song, params)

    def keep(name: str, frame: int, block: Forecast) -> None:
        if name in TRACKS and frame < stop:
            heard = block.passage(max(start - frame, 0), stop - frame)
            parts[TRACKS[name]].append(heard.predicted)

    measures = measure_passages(models, song.song(), held_out(song, params), keep)
    tracks = {file: np.concatenate(blocks) for file, blocks in parts.items()}
    return SongEvaluation(slug=song.slug, measures=measures, tracks=tracks)


def continue_song(
    model: ContinuationModel, song: PreparedSong, holdout_seconds: float, params: EvaluateParams
) -> SongEvaluation:
    """Measure continuations of the song's holdout; continue its held-out passage for listening.

    The tracks are the original and its continuation.
    """
    start, stop = listening_frames(song, params)
    prompt = Prompt(song.samples[:start], song.sample_rate_hz)
    track = model.generate(prompt, stop - start, temperature=1.0, seed=0)
    holdout = first_holdout_frame(song, holdout_seconds)
    measures = measure_continuations(model, song, holdout, holdout_seconds)
    tracks = {ORIGINAL: np.array(song.samples[start:stop]), CONTINUED: track}
    return SongEvaluation(slug=song.slug, measures=measures, tracks=tracks)


def listening_frames(song: PreparedSong, params: EvaluateParams) -> tuple[int, int]:
    """Return the frames [start, stop) for listening: the beginning of a held-out passage.

    In a song that is measured from its first frame they begin in its middle, because a
    continuation needs a past.
    """
    spans = held_out(song, params)
    stop = song.splits[TEST][1]
    start = next((start for _, start, _ in spans if start), stop // 2)
    return start, min(start + round(params.listening_seconds * song.sample_rate_hz), stop)

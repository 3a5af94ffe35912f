"""Stage evaluate: every forecaster on every song's unseen passage.

Run as ``python -m songcast.stages.evaluate``. Writes metrics/evaluation.json and listening/;
stage report draws them and logs them to MLflow.
"""

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from songcast.audio import Song, write_song
from songcast.backend import import_keras
from songcast.corpus import TEST, Corpus, PreparedSong
from songcast.evaluation import forecast_passage, measure, summarise
from songcast.files import write_json
from songcast.forecasters.base import Forecast, Forecaster
from songcast.models import load
from songcast.params import Params
from songcast.paths import LISTENING, METRICS, MODELS, PREPARED
from songcast.stages import run_stage

log = logging.getLogger("songcast.evaluate")

FITTED = ("train", "retrain")
# Which forecast is heard as which file.
LISTENED = {
    "train": "pred_song.wav",
    "retrain": "pred_song_updated.wav",
    "notebook": "pred_notebook.wav",
}


def main() -> None:
    """Read bundles and prepared songs; write metrics and WAVs."""
    import_keras()
    params = Params.load().evaluate
    corpus = Corpus.open(PREPARED)
    models = load_models()
    shutil.rmtree(LISTENING, ignore_errors=True)
    Path(METRICS).mkdir(exist_ok=True)
    songs: dict[str, dict[str, Any]] = {}
    for prepared in corpus:
        start, stop = prepared.splits[TEST]
        found = forecast_passage(models, prepared.song(), start, stop)
        songs[prepared.slug] = {name: measure(forecast) for name, forecast in found.items()}
        log.info("%s: %s bits", prepared.slug, _bits(songs[prepared.slug]))
        frames = round(params.listening_seconds * prepared.sample_rate_hz)
        heard = {name: forecast.passage(0, frames) for name, forecast in found.items()}
        write_listening(Path(LISTENING) / prepared.slug, prepared, heard)
    evaluation = {"summary": summarise(songs), "songs": songs}
    write_json(Path(METRICS) / "evaluation.json", evaluation)
    log.info("mean: %s bits", _bits(evaluation["summary"]))


def load_models() -> dict[str, Forecaster]:
    """Return all forecasters by their name in metrics/evaluation.json."""
    bundles = {name: load(Path(MODELS) / name) for name in ("ridge", "notebook", *FITTED)}
    return {
        "persistence": load("persistence"),
        "ridge": bundles["ridge"],
        "cascade": load("cascade"),
        "notebook": bundles["notebook"],
        "train": bundles["train"],
        "retrain": bundles["retrain"],
    }


def write_listening(folder: Path, prepared: PreparedSong, heard: Mapping[str, Forecast]) -> None:
    """Write the passage and its predictions as WAVs of the same frames."""
    folder.mkdir(parents=True)
    original = next(iter(heard.values())).samples
    tracks = {"original.wav": np.asarray(original)}
    for name, file in LISTENED.items():
        tracks[file] = np.clip(np.rint(heard[name].mean), -32768, 32767).astype(np.int16)
    for file, samples in tracks.items():
        song = Song(samples=samples, sample_rate_hz=prepared.sample_rate_hz, name=prepared.slug)
        write_song(song, folder / file)


def _bits(measures: Mapping[str, Mapping[str, Any]]) -> str:
    return ", ".join(f"{name} {found['bits_per_sample']:.3f}" for name, found in measures.items())


if __name__ == "__main__":
    run_stage(main)

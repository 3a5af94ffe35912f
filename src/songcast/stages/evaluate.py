"""Stage evaluate: every forecaster on every song's unseen passage.

Run as ``python -m songcast.stages.evaluate``. Writes metrics/evaluation.json and listening/;
stage report draws them and logs them to MLflow.
"""

import logging
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from songcast.audio import Song, write_song
from songcast.backend import import_keras
from songcast.continuation.continuer import Continuer
from songcast.continuation.guide import Prime
from songcast.corpus import TEST, Corpus, PreparedSong
from songcast.evaluation import forecast_passage, measure, summarise
from songcast.evaluation_continuation import evaluate_continuations
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
CONTINUED = "continuation.wav"


def main() -> None:
    """Read bundles and prepared songs; write metrics and WAVs."""
    import_keras()
    settings = Params.load()
    params = settings.evaluate
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
        write_listening(prepared, heard)
    evaluation = {"summary": summarise(songs), "songs": songs}
    log.info("mean: %s bits", _bits(evaluation["summary"]))
    evaluation["continuation"] = continue_songs(
        models["train"].continuer,
        corpus,
        settings.continuation.unheard_seconds,
        params.listening_seconds,
    )
    write_json(Path(METRICS) / "evaluation.json", evaluation)


def continue_songs(
    continuer: Continuer, corpus: Corpus, unheard_seconds: float, listening_seconds: float
) -> dict[str, Any]:
    """Measure continuations; write one of each song, of the frames of its other WAVs."""
    threads = os.cpu_count() or 1

    def write(prepared: PreparedSong) -> None:
        start, stop = prepared.splits[TEST]
        frames = min(round(listening_seconds * prepared.sample_rate_hz), stop - start)
        prime = Prime(prepared.samples[:start], prepared.sample_rate_hz)
        samples = continuer.go_on(prime, frames, temperature=1.0, seed=0)
        write_track(samples, prepared, CONTINUED)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(write, corpus))
    measured = evaluate_continuations(continuer, corpus, unheard_seconds, threads)
    for name, found in measured["summary"].items():
        distances = ", ".join(f"{value:.2f}" for value in found["log_mel_distance_db"] if value)
        log.info("continuation by %s: %s dB from the true log-mel levels", name, distances)
    return measured


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


def write_listening(prepared: PreparedSong, heard: Mapping[str, Forecast]) -> None:
    """Write the passage and its predictions as WAVs of the same frames."""
    (Path(LISTENING) / prepared.slug).mkdir(parents=True)
    original = next(iter(heard.values())).samples
    tracks = {"original.wav": np.asarray(original)}
    for name, file in LISTENED.items():
        tracks[file] = np.clip(np.rint(heard[name].mean), -32768, 32767).astype(np.int16)
    for file, samples in tracks.items():
        write_track(samples, prepared, file)


def write_track(samples: NDArray[np.int16], prepared: PreparedSong, file: str) -> None:
    """Write one of the song's WAVs."""
    song = Song(samples=samples, sample_rate_hz=prepared.sample_rate_hz, name=prepared.slug)
    write_song(song, Path(LISTENING) / prepared.slug / file)


def _bits(measures: Mapping[str, Mapping[str, Any]]) -> str:
    return ", ".join(f"{name} {found['bits_per_sample']:.3f}" for name, found in measures.items())


if __name__ == "__main__":
    run_stage(main)

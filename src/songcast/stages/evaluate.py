"""Stage evaluate: every forecaster on every song's unseen passage.

Run as ``python -m songcast.stages.evaluate``. Writes metrics/evaluation.json, plots/evaluate,
listening/ and logs them to the runs of train and retrain.
"""

import csv
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from songcast import figures
from songcast.audio import Song, write_song
from songcast.backend import import_keras
from songcast.corpus import TEST, Corpus, PreparedSong
from songcast.errors import TrackingError
from songcast.evaluation import csv_rows, forecast_passage, measure, summarise
from songcast.files import write_json
from songcast.forecasters.base import Forecast, Forecaster
from songcast.models import load
from songcast.params import Params
from songcast.paths import LISTENING, METRICS, MODELS, PLOTS, PREPARED
from songcast.stage_log import evaluation_log, run_of
from songcast.stages import run_stage
from songcast.tracking import log_evaluation, read_history

log = logging.getLogger("songcast.evaluate")

FITTED = ("train", "retrain")
# Which forecast is heard as which file.
LISTENED = {"train": "pred_song.wav", "retrain": "pred_song_updated.wav"}


def main() -> None:
    """Read bundles and prepared songs; write metrics, plots and WAVs; log them to MLflow."""
    import_keras()
    params = Params.load().evaluate
    corpus = Corpus.open(PREPARED)
    models = load_models()
    plots = Path(PLOTS) / "evaluate"
    for folder in (plots, Path(LISTENING)):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
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
        draw_song(plots, prepared, heard)
    evaluation = {"summary": summarise(songs), "songs": songs}
    write_json(Path(METRICS) / "evaluation.json", evaluation)
    write_csv(plots / "bits.csv", list(csv_rows(songs)))
    draw_summary(plots, evaluation)
    log.info("mean: %s bits", _bits(evaluation["summary"]))
    log_to_runs(evaluation)


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


def draw_song(folder: Path, prepared: PreparedSong, heard: Mapping[str, Forecast]) -> None:
    """Draw the waveforms, spectrograms and residual spectra of one passage."""
    original = next(iter(heard.values())).samples
    rate, slug = prepared.sample_rate_hz, prepared.slug
    shown = {name: heard[name].mean for name in ("notebook", "train")}
    residuals = {name: original - heard[name].mean for name in ("ridge", "notebook", "train")}
    drawings = {
        "waveforms": figures.waveforms(original, shown, rate, slug),
        "spectrograms": figures.spectrograms(original, heard["train"].mean, rate),
        "residuals": figures.residual_spectrum(original, residuals, rate),
    }
    for kind, figure in drawings.items():
        (folder / kind).mkdir(exist_ok=True)
        figures.save_png(figure, folder / kind / f"{slug}.png")


def draw_summary(folder: Path, evaluation: Mapping[str, Any]) -> None:
    """Draw what concerns all songs: bits, learning curves, forgetting."""
    figures.save_png(figures.bits_per_song(evaluation), folder / "bits.png")
    for stage in FITTED:
        rows = read_history(Path(MODELS) / stage / "history.csv")
        figures.save_png(figures.learning_curves(rows, None), folder / f"learning_{stage}.png")
    report = json.loads((Path(METRICS) / "retrain.json").read_text())
    bits = {
        when: {slug: entry[when]["bits_per_sample"] for slug, entry in report["songs"].items()}
        for when in ("before", "after")
    }
    drawn = figures.forgetting(bits["before"], bits["after"], set(report["new_songs"]))
    figures.save_png(drawn, folder / "forgetting.png")


def log_to_runs(evaluation: Mapping[str, Any]) -> None:
    """Log everything to the runs of train and retrain; register does it where this cannot."""
    for kind in FITTED:
        try:
            run_id = run_of(kind, Path(MODELS) / kind)
            log_evaluation(run_id, *evaluation_log(evaluation, kind, Path.cwd()))
        except TrackingError as error:
            log.warning("evaluate: not logged to MLflow now, register will: %s", error)
            return


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows of equal keys."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _bits(measures: Mapping[str, Mapping[str, Any]]) -> str:
    return ", ".join(f"{name} {found['bits_per_sample']:.3f}" for name, found in measures.items())


if __name__ == "__main__":
    run_stage(main)

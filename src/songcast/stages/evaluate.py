"""Stage evaluate: the trained forecasters and continuations on every song's held-out passage.

Run as ``python -m songcast.stages.evaluate``. It adds the results of the stage evaluate_baselines,
which a change to train or retrain does not run again. Writes metrics/evaluation.json and
listening/; the stage report plots them and logs them to MLflow.
"""

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from songcast.audio.songs import Song, read_song, write_song
from songcast.config import Engine, EvaluateParams, Params
from songcast.data.corpus import Corpus, PreparedSong
from songcast.distributed.engine import each_in_threads
from songcast.evaluation.songs import (
    TRAINED,
    SongEvaluation,
    continue_song,
    forecast_song,
    held_out,
    load_continuation,
    load_models,
)
from songcast.evaluation.summary import continuation_report, retraining, summarise_forecasts
from songcast.files import EVALUATED, LISTENING, METRICS, MODELS, PREPARED, write_json
from songcast.report.console import progress
from songcast.stages import run_stage

log = logging.getLogger("songcast.evaluate")

BASELINES_FILE = "baselines.json"


def main() -> None:
    """Read bundles, prepared songs and the evaluation of the baselines; write metrics and WAVs."""
    settings = Params.load()
    shutil.rmtree(LISTENING, ignore_errors=True)
    evaluation = evaluate(
        Path(MODELS).absolute(),
        Corpus.open(Path(PREPARED).absolute()),
        Path(EVALUATED),
        Path(LISTENING),
        settings.evaluate,
        holdout_seconds=settings.continuation.holdout_seconds,
        engine=settings.engine,
    )
    new_songs = json.loads((Path(METRICS) / "retrain.json").read_text())["new_songs"]
    evaluation["retraining"] = retraining(evaluation["songs"], new_songs)
    write_json(Path(METRICS) / "evaluation.json", evaluation)


def evaluate(
    models: Path,
    corpus: Corpus,
    evaluated: Path,
    listening: Path,
    params: EvaluateParams,
    *,
    holdout_seconds: float,
    engine: Engine = "local",
) -> dict[str, Any]:
    """Return the content of metrics/evaluation.json; write each song's WAVs to ``listening``.

    ``evaluated``: the output of the stage evaluate_baselines.
    """

    def generate(song: PreparedSong) -> SongEvaluation:
        model = load_continuation(models)
        return continue_song(model, song, holdout_seconds, params)

    load_continuation.cache_clear()  # an earlier evaluation in this process may have filled it
    load_continuation(models)  # a missing bundle is an error before the work begins
    baselines = json.loads((evaluated / BASELINES_FILE).read_text(encoding="utf-8"))
    trained = evaluate_forecasters(TRAINED, models, corpus, listening, params, engine)
    songs = {slug: baselines[slug] | measures for slug, measures in trained.items()}
    for track in evaluated.glob("*/*.flac"):
        song = read_song(track)
        write_song(song, listening / track.parent.name / f"{track.stem}.wav")
    for slug, measures in songs.items():
        log.info("%s: %s bits", slug, _bits(measures))
    evaluation = {"summary": summarise_forecasts(songs), "songs": songs}
    evaluation["passages"] = {
        song.slug: [[start, stop] for _, start, stop in held_out(song, params)] for song in corpus
    }
    log.info("mean: %s bits", _bits(evaluation["summary"]))
    continued = measure_songs(generate, corpus, engine, listening, ".wav")
    evaluation["continuation"] = continuation_report(continued)
    for name, means in evaluation["continuation"]["summary"].items():
        distances = ", ".join(f"{value:.2f}" for value in means["log_mel_distance_db"] if value)
        log.info("continuation by %s: %s dB from the true log-mel levels", name, distances)
    return evaluation


def evaluate_forecasters(
    names: tuple[str, ...],
    models: Path,
    corpus: Corpus,
    folder: Path,
    params: EvaluateParams,
    engine: Engine = "local",
    suffix: str = ".wav",
) -> dict[str, Any]:
    """Return the measures of forecasters by song; write their tracks to ``folder``/SLUG."""

    def forecast(song: PreparedSong) -> SongEvaluation:
        return forecast_song(load_models(models, names), song, params)

    load_models.cache_clear()
    load_models(models, names)
    return measure_songs(forecast, corpus, engine, folder, suffix)


def measure_songs(
    work: Callable[[PreparedSong], SongEvaluation],
    corpus: Corpus,
    engine: Engine,
    folder: Path,
    suffix: str,
) -> dict[str, Any]:
    """Return the measures of ``work(song)`` of every song by slug; write the tracks."""
    measures = {}
    with progress(work.__name__, len(corpus), "songs") as update:
        # The longest songs come first, so that all cores are busy to the end.
        songs = sorted(corpus, key=lambda song: -song.frames * song.channels)
        for result in each_in_threads(engine, work, songs):
            measures[result.slug] = result.measures
            (folder / result.slug).mkdir(parents=True, exist_ok=True)
            for name, samples in result.tracks.items():
                track = Song(samples=samples, sample_rate_hz=corpus.sample_rate_hz, name=name)
                write_song(track, (folder / result.slug / name).with_suffix(suffix))
            log.info("%s: %s", result.slug, ", ".join(result.tracks))
            update(advance=1)
    return {song.slug: measures[song.slug] for song in corpus}


def _bits(measures: Mapping[str, Mapping[str, Any]]) -> str:
    return ", ".join(f"{name} {m['bits_per_sample']:.3f}" for name, m in measures.items())


if __name__ == "__main__":
    run_stage(main)

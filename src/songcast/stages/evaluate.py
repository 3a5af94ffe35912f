"""Stage evaluate: every forecaster on every song's held-out passage.

Run as ``python -m songcast.stages.evaluate``. Writes metrics/evaluation.json and listening/;
the stage report plots them and logs them to MLflow.
"""

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from songcast.audio.songs import Song, write_song
from songcast.config import Engine, Params
from songcast.data.corpus import Corpus, PreparedSong
from songcast.distributed.engine import each, free_cores
from songcast.evaluation.songs import (
    SongEvaluation,
    continue_song,
    forecast_song,
    load_continuation,
    load_models,
)
from songcast.evaluation.summary import continuation_report, summarise_forecasts
from songcast.files import LISTENING, METRICS, MODELS, PREPARED, write_json
from songcast.report.console import progress
from songcast.stages import run_stage

log = logging.getLogger("songcast.evaluate")

# The filter bank of one song uses the cores while another song waits for the network.
SONGS_AT_ONCE = 2


def main() -> None:
    """Read bundles and prepared songs; write metrics and WAVs."""
    settings = Params.load()
    shutil.rmtree(LISTENING, ignore_errors=True)
    Path(METRICS).mkdir(exist_ok=True)
    evaluation = evaluate(
        Path(MODELS).absolute(),
        Corpus.open(Path(PREPARED).absolute()),
        Path(LISTENING),
        listening_seconds=settings.evaluate.listening_seconds,
        holdout_seconds=settings.continuation.holdout_seconds,
        engine=settings.engine,
    )
    write_json(Path(METRICS) / "evaluation.json", evaluation)


def evaluate(
    models: Path,
    corpus: Corpus,
    listening: Path,
    *,
    listening_seconds: float,
    holdout_seconds: float,
    engine: Engine = "local",
) -> dict[str, Any]:
    """Return the content of metrics/evaluation.json; write each song's WAVs to ``listening``."""

    def forecast(song: PreparedSong) -> SongEvaluation:
        return forecast_song(load_models(models), song, listening_seconds)

    def generate(song: PreparedSong) -> SongEvaluation:
        model = load_continuation(models)
        return continue_song(model, song, holdout_seconds, listening_seconds)

    def measured(work: Callable[[PreparedSong], SongEvaluation], threads: int) -> dict[str, Any]:
        measures = {}
        with progress(work.__name__, len(corpus), "songs") as update:
            for result in each_song(engine, work, corpus.songs, threads):
                measures[result.slug] = result.measures
                write_tracks(result, corpus.sample_rate_hz, listening / result.slug)
                log.info("%s: %s", result.slug, ", ".join(result.tracks))
                update(advance=1)
        return {song.slug: measures[song.slug] for song in corpus}

    for loader in (load_models, load_continuation):
        loader.cache_clear()  # an earlier evaluation in this process may have filled it
        loader(models)  # a missing bundle is an error before the work begins
    songs = measured(forecast, SONGS_AT_ONCE)
    for slug, measures in songs.items():
        log.info("%s: %s bits", slug, _bits(measures))
    evaluation = {"summary": summarise_forecasts(songs), "songs": songs}
    log.info("mean: %s bits", _bits(evaluation["summary"]))
    evaluation["continuation"] = continuation_report(measured(generate, free_cores()))
    for name, means in evaluation["continuation"]["summary"].items():
        distances = ", ".join(f"{value:.2f}" for value in means["log_mel_distance_db"] if value)
        log.info("continuation by %s: %s dB from the true log-mel levels", name, distances)
    return evaluation


def each_song(
    engine: Engine,
    work: Callable[[PreparedSong], SongEvaluation],
    songs: Sequence[PreparedSong],
    threads: int,
) -> Iterator[SongEvaluation]:
    """Yield ``work(song)`` of every song, on a Ray cluster or in ``threads`` threads here."""
    if engine == "ray":
        yield from each(engine, work, songs)
        return
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(work, songs)


def write_tracks(result: SongEvaluation, sample_rate_hz: int, folder: Path) -> None:
    """Write the tracks of a song as WAVs."""
    folder.mkdir(parents=True, exist_ok=True)
    for file, samples in result.tracks.items():
        song = Song(samples=samples, sample_rate_hz=sample_rate_hz, name=result.slug)
        write_song(song, folder / file)


def _bits(measures: Mapping[str, Mapping[str, Any]]) -> str:
    return ", ".join(f"{name} {m['bits_per_sample']:.3f}" for name, m in measures.items())


if __name__ == "__main__":
    run_stage(main)

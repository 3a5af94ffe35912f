"""Stage retrain: a warm start from ``retrain.parent`` on new songs, with a replay of the old.

Run as ``python -m songcast.stages.retrain``. Every song's code length and gain before and after
go to metrics/retrain.json, so that forgetting shows.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from songcast.bundle import read_manifest
from songcast.config import Params
from songcast.data.corpus import TRAIN, VALIDATION, Corpus, PreparedSong
from songcast.errors import ParamsError
from songcast.files import METRICS, PREPARED, write_json
from songcast.forecasting.keras_backend import import_keras
from songcast.forecasting.loading import load_bundle
from songcast.forecasting.lstm import LstmForecaster
from songcast.registry.models import locate
from songcast.stages import run_stage
from songcast.stages.fitting import Job, fit_and_log, select_songs
from songcast.training.feature_cache import SongFeatures
from songcast.training.fingerprint import fingerprint


def main() -> None:
    """Read params, prepared songs and the parent; write models/retrain, metrics/retrain.json."""
    import_keras()
    settings = Params.load()
    params = settings.retrain
    corpus = Corpus.open(Path(PREPARED).absolute())
    folder = locate(params.parent)
    parent = load_bundle(folder)
    if not isinstance(parent, LstmForecaster):
        raise ParamsError(
            f"params.yaml: retrain.parent is {params.parent!r}, a {parent.name}; name an LSTM, "
            "such as models/train"
        )
    new = select_songs(corpus, params.songs) or list(corpus)
    shares = replay_shares(list(corpus), new, params.replay_share)
    songs = [song for song in corpus if shares[song.slug] > 0]
    weights = str(read_manifest(folder)["weights_sha256"])
    job = Job(
        stage="retrain",
        params=params,
        songs=songs,
        fingerprint=fingerprint(params.model_dump(mode="json"), songs, weights),
        details={
            "sample_rate_hz": corpus.sample_rate_hz,
            "channels": 2,
            "parent_weights_sha256": weights,
        },
        engine=settings.engine,
        workers=settings.workers,
        shares=shares,
        tags={"songcast.parent": params.parent, "songcast.parent_weights_sha256": weights},
    )
    model = warm_start(parent, params.negative_slope)
    features = fit_and_log(job, model)
    report = {
        "new_songs": sorted(song.slug for song in select_songs(corpus, params.songs)),
        "songs": before_and_after(corpus, parent, model, features),
    }
    Path(METRICS).mkdir(exist_ok=True)
    write_json(Path(METRICS) / "retrain.json", report)


def warm_start(parent: LstmForecaster, negative_slope: float) -> LstmForecaster:
    """Return a copy of ``parent`` with its weights and another activation slope."""
    from songcast.forecasting.network import build_network

    settings = replace(parent.settings, negative_slope=negative_slope)
    network = build_network(settings)
    network.set_weights(parent.network.get_weights())
    return LstmForecaster(network, settings, parent.front_end)


def replay_shares(
    songs: Sequence[PreparedSong], new: Sequence[PreparedSong], replay_share: float
) -> dict[str, float]:
    """Return how often to draw each song, by slug, so that old ones get ``replay_share``.

    Within the old and within the new, every frame counts alike; what counts is what can be
    drawn, the train passages.
    """
    fresh = {song.slug for song in new}
    frames = {True: 0, False: 0}
    for song in songs:
        start, stop = song.splits.get(TRAIN, (0, 0))
        frames[song.slug in fresh] += (stop - start) * song.channels
    if not (frames[False] and frames[True]):
        return {song.slug: 1.0 for song in songs}
    weight = {True: (1.0 - replay_share) / frames[True], False: replay_share / frames[False]}
    return {song.slug: weight[song.slug in fresh] for song in songs}


def before_and_after(
    corpus: Corpus, parent: LstmForecaster, child: LstmForecaster, songs: Sequence[SongFeatures]
) -> dict[str, dict[str, Any]]:
    """Measure both models on each song's validation passage: bits per sample and gain in dB."""
    from songcast.training.fit import validation_measures

    return {
        song.slug: {
            "before": validation_measures(parent.network, song, corpus[song.slug].samples),
            "after": validation_measures(child.network, song, corpus[song.slug].samples),
        }
        for song in songs
        if VALIDATION in song.splits
    }


if __name__ == "__main__":
    run_stage(main)

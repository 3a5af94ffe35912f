"""Stage retrain: train ``retrain.parent`` further on new songs, with a replay of the old ones.

Run as ``python -m songcast.stages.retrain``. metrics/retrain.json names the parent and has the
bits per sample and the prediction gain of every song before and after, which shows what the
model forgets.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from songcast.bundle import read_manifest
from songcast.config import Params
from songcast.data.corpus import VALIDATION, Budget, Corpus
from songcast.errors import ParamsError
from songcast.files import FEATURES, METRICS, PREPARED, root, write_json
from songcast.forecasting.keras_backend import import_keras
from songcast.forecasting.loading import load_bundle
from songcast.forecasting.lstm import LstmForecaster
from songcast.registry.models import locate, pin
from songcast.stages import run_stage
from songcast.stages.forecaster import train_forecaster
from songcast.training.feature_cache import SongFeatures, compute_features, in_use
from songcast.training.setup import replay_shares, select_songs


def main() -> None:
    """Read params, prepared songs and the parent; write models/retrain, metrics/retrain.json."""
    import_keras()
    settings = Params.load()
    params = settings.retrain
    corpus = Corpus.open(Path(PREPARED).absolute())
    uri = pin(params.parent)
    folder = locate(uri)
    parent = load_bundle(folder)
    if not isinstance(parent, LstmForecaster):
        raise ParamsError(
            f"params.yaml: retrain.parent is {params.parent!r}, a {parent.name}; name an LSTM, "
            "such as models/train"
        )
    selected = select_songs(corpus, params.songs, "retrain.songs")
    new, budget = selected or list(corpus), Budget.of(params)
    shares = replay_shares(list(corpus), new, params.replay_share, budget)
    songs = [song for song in corpus if shares[song.slug] > 0]
    manifest = read_manifest(folder)
    weights = str(manifest["weights_sha256"])
    shape = replace(parent.settings, negative_slope=params.negative_slope)
    known = (manifest.get("provenance") or {}).get("songs", ())
    child, features = train_forecaster(
        "retrain",
        params,
        LstmForecaster(parent.weights, shape, parent.front_end),
        songs,
        settings=settings,
        parent_sha256=weights,
        learned=[song["slug"] for song in known if song["learned"]],
        shares=shares,
        tags={"songcast.parent": params.parent, "songcast.parent_weights_sha256": weights},
    )
    report = {
        # DVC does not see an alias move: `songcast summary` compares this with the registry.
        "parent": {"name": params.parent, "uri": uri, "weights_sha256": weights},
        "new_songs": sorted(song.slug for song in selected),
        "songs": before_and_after(corpus, parent, child, features),
    }
    write_json(Path(METRICS) / "retrain.json", report)


def before_and_after(
    corpus: Corpus, parent: LstmForecaster, child: LstmForecaster, songs: Sequence[SongFeatures]
) -> dict[str, dict[str, Any]]:
    """Measure both models on each song's validation passage: bits per sample and gain in dB."""
    from songcast.forecasting.network import network_of
    from songcast.training.validation import validation_measures

    before, after = (network_of(model.settings, model.weights) for model in (parent, child))
    measured = [song for song in songs if VALIDATION in song.splits]
    with in_use(root() / FEATURES):
        compute_features(measured)  # those that other machines have computed for themselves
        return {
            song.slug: {
                "before": validation_measures(before, song, corpus[song.slug].samples),
                "after": validation_measures(after, song, corpus[song.slug].samples),
            }
            for song in measured
        }


if __name__ == "__main__":
    run_stage(main, trains=True)

"""What train and retrain share: features, the fit, and the outputs of an LSTM forecaster."""

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from songcast.config import FitParams, Params
from songcast.data.corpus import PreparedSong
from songcast.files import FEATURES, root
from songcast.forecasting.lstm import LstmForecaster
from songcast.stages.fitting import Hooks, Model, run_training
from songcast.training.feature_cache import SongFeatures, in_use
from songcast.training.fit import Row
from songcast.training.setup import fit_settings, open_crops

log = logging.getLogger("songcast.fit")


def train_forecaster(
    stage: str,
    params: FitParams,
    model: LstmForecaster,
    songs: Sequence[PreparedSong],
    *,
    fingerprint: str,
    details: Mapping[str, Any],
    settings: Params,
    learned: Collection[str] = (),
    shares: Mapping[str, float] | None = None,
    tags: Mapping[str, str] | None = None,
) -> tuple[LstmForecaster, list[SongFeatures]]:
    """Train a copy of ``model`` on ``songs`` and write it; return it and the songs' features.

    ``settings``: where the features are computed, and how large their cache is. ``learned``: slugs
    of the songs that the parent of ``model`` has learned. ``shares``: how often each song is drawn,
    by slug.
    """
    features: list[SongFeatures] = []
    trained = model
    cache, workers = root() / FEATURES, settings.workers

    def train(hooks: Hooks) -> tuple[Model, list[Row]]:
        nonlocal trained
        from songcast.forecasting.network import network_of, network_weights
        from songcast.training.forecaster import fit_forecaster, fit_on_cluster

        log.info("%s: computing features of %d songs ...", stage, len(songs))
        opened, sampler = open_crops(songs, model, params, cache, settings.engine, shares)
        features.extend(opened)
        fit = (sampler, opened, fit_settings(params), hooks.checkpoint)
        if workers > 1:
            fit_on_cluster(model, *fit, workers, hooks.on_epoch)
        network = network_of(model.settings, model.weights)
        rows = fit_forecaster(network, *fit, hooks.on_epoch, hooks.on_step)
        trained = LstmForecaster(network_weights(network), model.settings, model.front_end)
        return trained, rows

    with in_use(cache, settings.cache_gb * 1e9):
        run_training(
            stage,
            params,
            train,
            fingerprint=fingerprint,
            details=details,
            learned={*learned, *(song.slug for song in songs)},
            tags=tags,
        )
    return trained, features

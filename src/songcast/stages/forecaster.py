"""What train and retrain share: the run, the features, the fit, and the outputs of a forecaster."""

import logging
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from songcast.bundle import history_csv
from songcast.config import FitParams, Params
from songcast.data.corpus import PreparedSong
from songcast.files import CHECKPOINTS, FEATURES, MODELS, PLOTS, root, write_text
from songcast.forecasting.lstm import LstmForecaster
from songcast.report.console import progress
from songcast.tracking.lineage import provenance, unused_gpu
from songcast.tracking.stage_run import stage_run
from songcast.training.checkpoint import Checkpoint, fingerprint
from songcast.training.feature_cache import SongFeatures, compute_features, in_use
from songcast.training.setup import CODE, open_crops

log = logging.getLogger("songcast.fit")


def train_forecaster(
    stage: str,
    params: FitParams,
    model: LstmForecaster,
    songs: Sequence[PreparedSong],
    *,
    settings: Params,
    parent_sha256: str | None = None,
    learned: Collection[str] = (),
    shares: Mapping[str, float] | None = None,
    tags: Mapping[str, str] | None = None,
) -> tuple[LstmForecaster, Sequence[SongFeatures]]:
    """Train a copy of ``model`` on ``songs`` within an MLflow run; return it and the features.

    Writes models/STAGE and plots/STAGE.csv. An interrupted training with the same params, songs,
    code and parent resumes from its checkpoint and in its MLflow run. ``settings``: where the
    features are computed, and how large their cache is. ``parent_sha256``, ``learned``: digest of
    the weights that ``model`` has from its parent, and slugs of the songs that they have learned.
    ``shares``: how often each song is drawn, by slug.
    """
    from songcast.forecasting.network import network_of, network_weights
    from songcast.training.forecaster import (
        TRAIN_BITS,
        VALIDATION_BITS,
        Row,
        fit_forecaster,
        fit_on_cluster,
    )

    origin = provenance({*learned, *(song.slug for song in songs)})
    gpu = unused_gpu()
    if gpu:
        log.warning("%s: this machine has a %s, unused: `make gpu` enables it", stage, gpu)
    values = params.model_dump(mode="json")
    parent = [parent_sha256] if parent_sha256 else []
    key = fingerprint(values, songs, *parent, code=CODE)
    checkpoint = Checkpoint(Path(CHECKPOINTS).absolute() / stage, key)
    cache, cache_bytes = root() / FEATURES, settings.cache_gb * 1e9
    with (
        in_use(cache, cache_bytes),
        stage_run(stage, values, tags=tags, resume_id=checkpoint.run_id) as run,
    ):
        checkpoint.run_id = run.run_id or checkpoint.run_id
        log.info("%s: computing features of %d songs ...", stage, len(songs))
        opened = partial(open_crops, songs, model, params, shares=shares)
        sampler = opened(cache)
        if settings.workers == 1:
            with progress(f"{stage}: features", len(sampler.songs), "passages") as passages:
                compute_features(sampler.songs, settings.engine, lambda: passages(advance=1))
        with progress(stage, params.epochs * params.steps_per_epoch, "steps") as update:

            def on_epoch(epoch: int, row: Row) -> None:
                log.info(
                    "%s: epoch %d of %d, train %.4f, validation %.4f bits per sample",
                    *(stage, epoch + 1, params.epochs, row[TRAIN_BITS], row[VALIDATION_BITS]),
                )
                # The workers of a cluster report no steps.
                update(completed=(epoch + 1) * params.steps_per_epoch)
                run.log_metrics({key: row[key] for key in (TRAIN_BITS, VALIDATION_BITS)}, epoch)

            if settings.workers > 1:
                how = (settings.workers, on_epoch, cache, cache_bytes)
                fit_on_cluster(model, opened, params, checkpoint, *how)
            network = network_of(model.settings, model.weights)
            fit = (sampler, params, checkpoint, on_epoch, lambda step: update(completed=step))
            rows = fit_forecaster(network, *fit)
        trained = LstmForecaster(network_weights(network), model.settings, model.front_end)
        history = history_csv(rows)
        bundle = Path(MODELS) / stage
        details: dict[str, Any] = {"sample_rate_hz": songs[0].sample_rate_hz, "channels": 2}
        if parent_sha256:
            details["parent_weights_sha256"] = parent_sha256
        trained.save(bundle, {**details, "params": values, "provenance": origin}, history)
        write_text(Path(PLOTS) / f"{stage}.csv", history)
        run.log_bundle(bundle)
    checkpoint.clear()
    return trained, sampler.songs

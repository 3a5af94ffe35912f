"""Stage continuation: train the model that continues songs, on all songs at once.

Run as ``python -m songcast.stages.continuation``. The stage register packages its bundle with
those of train and retrain.
"""

import logging
from pathlib import Path

from songcast.config import ContinuationParams, Params
from songcast.continuation.holdout import usable_frames
from songcast.data.corpus import Corpus
from songcast.distributed.engine import free_cores
from songcast.files import MODELS, PLOTS, PREPARED
from songcast.forecasting.keras_backend import import_keras
from songcast.stages import run_stage
from songcast.stages.fitting import history_csv, write_text
from songcast.tracking.stage_run import StageRun, stage_run

STAGE = "continuation"
log = logging.getLogger("songcast.continuation")


def main() -> None:
    """Read params and prepared songs; write models/continuation and plots/continuation.csv."""
    keras = import_keras()
    params = Params.load().continuation
    corpus = Corpus.open(PREPARED)
    keras.utils.set_random_seed(params.seed)
    with stage_run(STAGE, params.model_dump(mode="json")) as run:
        learn(params, corpus, run)


def learn(params: ContinuationParams, corpus: Corpus, run: StageRun) -> None:
    """Train a network on the songs' heard parts and write its bundle."""
    from songcast.continuation.features import SLOW
    from songcast.continuation.model import ContinuationModel
    from songcast.continuation.network import build_network
    from songcast.continuation.settings import NetworkSettings
    from songcast.training.continuation import FitSettings, Row, fit
    from songcast.training.continuation_examples import Sampler, make_examples

    songs = [(song, usable_frames(song, params.holdout_seconds)) for song in corpus]
    log.info("%s: listening to %d songs ...", STAGE, len(songs))
    crop = params.crop_steps * SLOW
    views = make_examples(songs, params.examples, crop, free_cores())
    settings = NetworkSettings(
        look_back=params.look_back,
        slow_units=params.slow_units,
        fast_units=params.fast_units,
        head_units=params.head_units,
        negative_slope=params.negative_slope,
    )
    network = build_network(settings)
    learn, check = (
        Sampler(
            found or views[0],
            rows=params.batch_size,
            steps=params.crop_steps,
            look_back=params.look_back,
            seed=params.seed,
        )
        for found in views
    )

    def on_epoch(epoch: int, row: Row) -> None:
        bits = {key: value for key, value in row.items() if key != "step"}
        said = ", ".join(f"{key.replace('_', ' ')} {value:.4f}" for key, value in bits.items())
        log.info("%s: epoch %d of %d, %s", STAGE, epoch + 1, params.epochs, said)
        run.log_metrics(bits, epoch)

    fit_settings = FitSettings(
        epochs=params.epochs,
        steps_per_epoch=params.steps_per_epoch,
        learning_rate=params.learning_rate,
    )
    rows = fit(network, learn, check, fit_settings, on_epoch)
    history = history_csv(rows)
    details = {
        "sample_rate_hz": corpus.sample_rate_hz,
        "channels": 2,
        "params": params.model_dump(mode="json"),
    }
    bundle = Path(MODELS) / STAGE
    ContinuationModel(network, settings, params.copy_share).save(bundle, details, history)
    write_text(Path(PLOTS) / f"{STAGE}.csv", history)
    run.log_artifact(bundle, "bundle")


if __name__ == "__main__":
    run_stage(main)

"""Stage continuation: train the model that continues songs, on all songs.

Run as ``python -m songcast.stages.continuation``. The stage register packages its bundle with
those of train and retrain.
"""

import logging

from songcast.config import ContinuationParams, Params
from songcast.data.corpus import Corpus, usable_frames
from songcast.distributed.engine import free_cores
from songcast.files import PREPARED
from songcast.forecasting.keras_backend import import_keras
from songcast.stages import run_stage
from songcast.stages.fitting import Hooks, Model, run_training
from songcast.training.checkpoint import fingerprint
from songcast.training.fit import Row

log = logging.getLogger("songcast.continuation")


def main() -> None:
    """Read params and prepared songs; write models/continuation and plots/continuation.csv."""
    import_keras()
    from songcast.training.continuation import CODE

    params = Params.load().continuation
    corpus = Corpus.open(PREPARED)
    run_training(
        "continuation",
        params,
        lambda hooks: train(params, corpus, hooks),
        fingerprint=fingerprint(params.model_dump(mode="json"), corpus, code=CODE),
        details={"sample_rate_hz": corpus.sample_rate_hz, "channels": 2},
        learned=[song.slug for song in corpus],
        log_bundle=lambda run, bundle: run.log_artifact(bundle, "bundle"),
    )


def train(params: ContinuationParams, corpus: Corpus, hooks: Hooks) -> tuple[Model, list[Row]]:
    """Return the trained model and one row per epoch."""
    import keras

    from songcast.continuation.features import SLOW
    from songcast.continuation.model import ContinuationModel
    from songcast.continuation.network import build_network
    from songcast.continuation.settings import NetworkSettings
    from songcast.training.continuation import (
        AVERAGE_MOMENTUM,
        WARMUP_SHARE,
        Sampler,
        continuation_objective,
        make_examples,
    )
    from songcast.training.fit import FitSettings, fit

    songs = [(song, usable_frames(song, params.holdout_seconds)) for song in corpus]
    log.info("continuation: making training examples of %d songs ...", len(songs))
    examples = make_examples(songs, params.examples, params.crop_steps * SLOW, free_cores())
    learn, check = (
        Sampler(
            part or examples[0],
            rows=params.batch_size,
            steps=params.crop_steps,
            look_back=params.look_back,
            seed=params.seed,
        )
        for part in examples
    )
    settings = NetworkSettings(
        look_back=params.look_back,
        slow_units=params.slow_units,
        fast_units=params.fast_units,
        head_units=params.head_units,
        negative_slope=params.negative_slope,
    )
    keras.utils.set_random_seed(params.seed)
    network = build_network(settings)
    fit_settings = FitSettings(
        epochs=params.epochs,
        steps_per_epoch=params.steps_per_epoch,
        learning_rate=params.learning_rate,
        warmup_share=WARMUP_SHARE,
        average_momentum=AVERAGE_MOMENTUM,
    )
    objective = continuation_objective(learn, check)
    rows = fit(network, objective, fit_settings, hooks.checkpoint, hooks.on_epoch, hooks.on_step)
    return ContinuationModel(network, settings, params.copy_share), rows


if __name__ == "__main__":
    run_stage(main)

"""Stage baselines: fit ridge and the LSTMs of the original notebook, to compare train with.

Run as ``python -m songcast.stages.baselines``.
"""

import logging
from pathlib import Path

from songcast.config import Params
from songcast.data.corpus import TRAIN, Corpus, Passages
from songcast.files import MODELS, PREPARED
from songcast.forecasting.keras_backend import import_keras
from songcast.forecasting.notebook import fit_notebook
from songcast.forecasting.ridge import Ridge
from songcast.stages import run_stage
from songcast.tracking.lineage import provenance
from songcast.tracking.stage_run import stage_run

log = logging.getLogger("songcast.baselines")


def main() -> None:
    """Read params and prepared songs; write models/ridge and models/notebook."""
    import_keras()
    params = Params.load().baselines
    corpus = Corpus.open(PREPARED)
    details = {
        "sample_rate_hz": corpus.sample_rate_hz,
        "channels": 2,
        "params": params.model_dump(mode="json"),
        "provenance": provenance([song.slug for song in corpus]),
    }
    passages, recipe = Passages(corpus, TRAIN), params.notebook
    with stage_run("baselines", params.model_dump(mode="json")) as run:
        ridge = Ridge.fit(passages, params.look_back, params.alpha)
        ridge.save(Path(MODELS) / ridge.name, details)
        log.info("ridge: %d past frames, fitted on %d songs", params.look_back, len(corpus))

        def on_epoch(epoch: int, loss: float) -> None:
            log.info("notebook: epoch %d of %d, loss %.2e", epoch + 1, recipe.epochs, loss)
            run.log_metrics({"notebook/loss": loss}, epoch)

        notebook = fit_notebook(
            passages,
            look_back=recipe.look_back,
            activation=recipe.activation,
            epochs=recipe.epochs,
            windows_per_epoch=recipe.windows_per_epoch,
            seed=params.seed,
            on_epoch=on_epoch,
        )
        notebook.save(Path(MODELS) / notebook.name, details)


if __name__ == "__main__":
    run_stage(main, trains=True)

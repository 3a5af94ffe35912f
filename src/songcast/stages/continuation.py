"""Stage continuation: train the level model of continuations, on all songs.

Run as ``python -m songcast.stages.continuation``. The stage register packages its bundle with
those of train and retrain. Training takes about a minute, so it has no checkpoints.
"""

import logging
from pathlib import Path
from typing import Any

from songcast.bundle import history_csv
from songcast.config import Params
from songcast.continuation.level_model import PASSAGES, pretrained
from songcast.continuation.model import ContinuationModel
from songcast.data.corpus import Corpus, usable_frames
from songcast.files import MODELS, PLOTS, PREPARED, write_text
from songcast.forecasting.keras_backend import import_keras
from songcast.report.console import progress
from songcast.stages import run_stage
from songcast.tracking.lineage import provenance
from songcast.tracking.stage_run import stage_run
from songcast.training.continuation import BLEND_ERROR, TRAIN_ERROR, Row, fit_levels, make_cuts

log = logging.getLogger("songcast.continuation")
STAGE = "continuation"


def main() -> None:
    """Read params and prepared songs; write models/continuation and plots/continuation.csv."""
    import_keras()
    params, corpus = Params.load().continuation, Corpus.open(PREPARED)
    values = params.model_dump(mode="json")
    origin = provenance([song.slug for song in corpus])
    start = {name: array for name, array in pretrained().items() if name != "linear_blend"}
    steps = params.epochs * params.steps_per_epoch
    with stage_run(STAGE, values) as run, progress(STAGE, steps, "steps") as update:
        songs = [(song, usable_frames(song, params.holdout_seconds)) for song in corpus]
        log.info("continuation: cutting %d songs ...", len(songs))
        cuts = make_cuts(songs, params.cuts, PASSAGES, params.seed)
        if not cuts:
            log.warning("continuation: songs shorter than 2 s cannot be learned from")

        def on_epoch(epoch: int, row: Row) -> None:
            errors = row[TRAIN_ERROR], row[BLEND_ERROR]
            log.info("continuation: epoch %d, levels %.3f dB, blend %.3f dB", epoch + 1, *errors)
            run.log_metrics({key: row[key] for key in (TRAIN_ERROR, BLEND_ERROR)}, epoch)

        arrays, rows = fit_levels(cuts, start, params, on_epoch, lambda n: update(completed=n))
        history = history_csv(rows) if rows else f"step,{TRAIN_ERROR},{BLEND_ERROR}\n"
        bundle = Path(MODELS) / STAGE
        details: dict[str, Any] = {"sample_rate_hz": corpus.sample_rate_hz, "channels": 2}
        details |= {"params": values, "provenance": origin}
        ContinuationModel(arrays).save(bundle, details, history)
        write_text(Path(PLOTS) / f"{STAGE}.csv", history)
        run.log_artifact(bundle, "bundle")


if __name__ == "__main__":
    run_stage(main, trains=True)

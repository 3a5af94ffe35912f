"""What the training stages share: the MLflow run, the checkpoint, progress, and the outputs."""

import csv
import io
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from songcast.config import FitParams
from songcast.files import CHECKPOINTS, MODELS, PLOTS, write_text
from songcast.report.console import progress
from songcast.tracking.lineage import provenance, unused_gpu
from songcast.tracking.stage_run import StageRun, stage_run
from songcast.training.checkpoint import Checkpoint
from songcast.training.fit import TRAIN_BITS, VALIDATION_BITS, Row

log = logging.getLogger("songcast.fit")


class Model(Protocol):
    """A model that writes itself as a bundle."""

    def save(self, folder: Path, details: dict[str, Any], history_csv: str = "") -> None:
        """Write the bundle; ``details``: further keys of its bundle.json."""


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What a fit gets from its stage: where it keeps its state, and its callbacks."""

    checkpoint: Checkpoint
    on_epoch: Callable[[int, Row], None]
    on_step: Callable[[int], None]


def run_training(
    stage: str,
    params: FitParams,
    train: Callable[[Hooks], tuple[Model, list[Row]]],
    *,
    fingerprint: str,
    details: Mapping[str, Any],
    learned: Collection[str],
    tags: Mapping[str, str] | None = None,
    log_bundle: Callable[[StageRun, Path], None] = StageRun.log_bundle,
) -> None:
    """Train a model within an MLflow run; write models/STAGE and plots/STAGE.csv.

    ``train`` returns the trained model and one row per epoch. An interrupted training with the
    same ``fingerprint`` resumes from its checkpoint and in its MLflow run. ``details``: further
    keys of bundle.json. ``learned``: slugs of the songs that the model learns from.
    """
    origin = provenance(learned)
    gpu = unused_gpu()
    if gpu:
        log.warning("%s: this machine has a %s, unused: `make gpu` enables it", stage, gpu)
    checkpoint = Checkpoint(Path(CHECKPOINTS).absolute() / stage, fingerprint)
    checkpoint.run_id = checkpoint.peek_run_id()
    values = params.model_dump(mode="json")
    steps = params.epochs * params.steps_per_epoch
    with (
        stage_run(stage, values, tags=tags, resume_id=checkpoint.run_id) as run,
        progress(stage, steps, "steps") as update,
    ):
        checkpoint.run_id = run.run_id

        def on_epoch(epoch: int, row: Row) -> None:
            log.info(
                "%s: epoch %d of %d, train %.4f, validation %.4f bits per sample",
                *(stage, epoch + 1, params.epochs, row[TRAIN_BITS], row[VALIDATION_BITS]),
            )
            # The workers of a cluster report no steps.
            update(completed=(epoch + 1) * params.steps_per_epoch)
            run.log_metrics({key: row[key] for key in (TRAIN_BITS, VALIDATION_BITS)}, epoch)

        def on_step(step: int) -> None:
            update(completed=step)

        hooks = Hooks(checkpoint=checkpoint, on_epoch=on_epoch, on_step=on_step)
        model, rows = train(hooks)
        history = history_csv(rows)
        bundle = Path(MODELS) / stage
        model.save(bundle, {**details, "params": values, "provenance": origin}, history)
        write_text(Path(PLOTS) / f"{stage}.csv", history)
        log_bundle(run, bundle)
    checkpoint.clear()


def history_csv(rows: Sequence[Row]) -> str:
    """Return one line per epoch, ``step`` first."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "step": int(row["step"])} for row in rows)
    return stream.getvalue()

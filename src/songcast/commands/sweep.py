"""`songcast sweep`: a search for better settings of train."""

import argparse
import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from songcast import files
from songcast.config import Params, Range, TrainParams
from songcast.data.corpus import Corpus
from songcast.distributed import cluster
from songcast.errors import ParamsError
from songcast.files import FEATURES, PREPARED
from songcast.forecasting.keras_backend import import_keras
from songcast.report import console
from songcast.tracking.run_data import send_metrics, send_params
from songcast.tracking.runs import create_run
from songcast.tracking.store import experiment_id, session
from songcast.training.checkpoint import Checkpoint, fingerprint
from songcast.training.setup import CODE, new_model, open_crops, songs_to_train_on

STAGE, SWEEP, TRIAL = "sweep", "songcast.sweep", "songcast.trial"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One trial of a sweep.

    ``values``: by key of train. ``rows``: one per epoch, ``step`` and metrics. ``failed``: it
    ended with an error.
    """

    name: str
    values: Mapping[str, Any]
    rows: Sequence[Mapping[str, float]]
    failed: bool = False

    @property
    def bits_per_sample(self) -> float:
        """The best epoch's, on the validation passages; infinite if no epoch has a number."""
        bits = (row["validation_bits_per_sample"] for row in self.rows)
        return min(filter(math.isfinite, bits), default=math.inf)


def run(arguments: argparse.Namespace) -> None:
    """Run the sweep and print its trials, the best first."""
    root = files.root()
    params = Params.load(root / files.PARAMS)
    check(params)
    key = sweep_key(root, params)
    trials = sweep(root, params, root / files.CHECKPOINTS / f"sweep-{key}")
    run_id = log_sweep(key, params.sweep.model_dump(mode="json"), trials)
    trials = sorted(trials, key=lambda trial: trial.bits_per_sample)
    if arguments.json:
        console.print_json({"run_id": run_id, "trials": [as_json(trial) for trial in trials]})
        return
    keys = list(params.sweep.space)
    rows = []
    for t in trials:
        values = (t.values[key] for key in keys)
        texts = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]
        rows.append([*texts, str(len(t.rows)), console.number(known_bits(t), 4)])
    console.print_table([*keys, "epochs", "bits/sample"], rows)
    if known_bits(trials[0]) is None:
        print("\nAll trials failed or diverged: change sweep.space of params.yaml")
    else:
        best = " ".join(f"-S train.{key}={trials[0].values[key]}" for key in keys)
        print(f"\nTrain with the best: dvc exp run {best}")


def check(params: Params) -> None:
    """Raise ``ParamsError`` if sweep.space has a key or a value that train does not accept."""
    for key, choices in params.sweep.space.items():
        if key not in TrainParams.model_fields:
            known = ", ".join(TrainParams.model_fields)
            raise ParamsError(
                f"params.yaml: sweep.space.{key} is not a key of train; use one of: {known}"
            )
        for value in (choices.low, choices.high) if isinstance(choices, Range) else choices:
            try:
                TrainParams.model_validate({**params.train.model_dump(), key: value})
            except ValidationError:
                raise ParamsError(
                    f"params.yaml: sweep.space.{key} has {value!r}, which is invalid for "
                    f"train.{key}; correct it"
                ) from None
    if params.sweep.grace_epochs > params.train.epochs:
        raise ParamsError(
            f"params.yaml: sweep.grace_epochs is {params.sweep.grace_epochs}; allowed: up to "
            f"train.epochs, {params.train.epochs}"
        )


def as_json(trial: Trial) -> dict[str, Any]:
    """Return a trial as an entry of the JSON document."""
    return {
        "trial": trial.name,
        "values": dict(trial.values),
        "epochs": len(trial.rows),
        "validation_bits_per_sample": known_bits(trial),
        "failed": trial.failed,
    }


def known_bits(trial: Trial) -> float | None:
    """Return the trial's bits per sample, None where it failed or diverged."""
    return trial.bits_per_sample if math.isfinite(trial.bits_per_sample) else None


def sweep_key(root: Path, params: Params) -> str:
    """Return a key of the params, the songs and the code: with another key, trials run again."""
    values = params.model_dump(mode="json", include={"train", "sweep"})
    return fingerprint(values, Corpus.open(root / PREPARED), code=CODE)[:16]


def sweep(root: Path, params: Params, folder: Path) -> list[Trial]:
    """Run the trials, except those that ``folder`` already has, and return all of them."""
    results = cluster.tune(
        partial(train, root, params),
        params.sweep.space,
        trials=params.sweep.trials,
        epochs=params.train.epochs,
        grace_epochs=params.sweep.grace_epochs,
        seed=params.sweep.seed,
        folder=folder,
    )
    return [
        Trial(
            name=name,
            values=values,
            rows=read_rows(path / "result.json"),
            failed=(path / "error.txt").exists(),
        )
        for name, values, path in results
    ]


def train(
    root: Path,
    params: Params,
    values: dict[str, Any],
    report: Callable[[dict[str, float]], None],
) -> None:
    """Train one trial in a worker; ``report`` gets the row of each epoch and may stop the trial."""
    import_keras()
    from songcast.forecasting.network import network_of
    from songcast.training.feature_cache import in_use
    from songcast.training.forecaster import fit_forecaster

    tried = TrainParams.model_validate({**params.train.model_dump(), **values})
    songs = songs_to_train_on(Corpus.open(root / PREPARED), tried)
    model = new_model(tried, songs)
    with in_use(root / FEATURES), tempfile.TemporaryDirectory() as scratch:
        fit_forecaster(
            network_of(model.settings, model.weights),
            open_crops(songs, model, tried, root / FEATURES),
            tried,
            Checkpoint(Path(scratch), ""),
            lambda _, row: report(row),
        )


def read_rows(path: Path) -> Sequence[dict[str, float]]:
    """Return the metrics that Ray stored, one row per epoch, the last of repeated ones."""
    rows: dict[float, dict[str, float]] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        entry = json.loads(line)
        names = ("step", "train_bits_per_sample", "validation_bits_per_sample")
        rows[entry["step"]] = {name: float(entry[name]) for name in names}
    return [rows[step] for step in sorted(rows)]


def log_sweep(key: str, params: Mapping[str, Any], trials: Sequence[Trial]) -> str:
    """Log the sweep with this ``key`` and its trials; return its run id. Idempotent.

    Raises ``TrackingError`` if the store cannot be reached.
    """
    with session(lock=True) as client:
        query = f"tags.`{SWEEP}` = '{key}' and attributes.status != 'RUNNING'"
        found = client.search_runs([experiment_id(client)], query, max_results=10_000)
        known = {run.data.tags.get(TRIAL, ""): str(run.info.run_id) for run in found}
        if "" not in known:
            known[""] = create_run(client, STAGE, {SWEEP: key})
            send_params(client, known[""], params)
            client.set_terminated(known[""], status="FINISHED")
        for trial in (trial for trial in trials if trial.name not in known):
            tags = {SWEEP: key, TRIAL: trial.name}
            run_id = create_run(client, STAGE, tags, known[""], name=trial.name)
            send_params(client, run_id, trial.values)
            send_metrics(client, run_id, trial.rows)
            client.set_terminated(run_id, status="FAILED" if trial.failed else "FINISHED")
        return known[""]

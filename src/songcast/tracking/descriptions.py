"""The descriptions of runs, and the view of the list of runs, shown by the MLflow UI."""

import json
import time
from collections.abc import Mapping
from typing import Any

from songcast.report.results import (
    COLUMNS,
    best_of,
    bits_per_sample,
    markdown_table,
    mean_gain_db,
    result_rows,
)

EXPLAINED = (
    "Means over held-out passages. Prediction gain: song power over error power, more is better. "
    "Bits per sample: the size of a lossless file coded with the forecaster, fewer is better. "
    "Lag: 0 for an honest predictor."
)
# The saved view of the list of runs; the tags and their format are those of MLflow 3.17's UI.
VIEW, VIEW_TAG, NOTE = "results", "mlflow.sharedViewState.", "mlflow.note.content"
COLUMNS_OF_VIEW = (
    "attributes.`Created`",
    "metrics.`bits_per_sample`",
    "metrics.`prediction_gain_db`",
    "metrics.`gain_over_ridge_db`",
    "params.`train.epochs`",
    "params.`train.seed`",
    "attributes.`Models`",
    "attributes.`Dataset`",
    "tags.`dvc.exp_name`",
)
ABOUT = """\
Each `pipeline` run is one execution of `dvc repro`; its children are the stages. Fewer
`bits_per_sample` and more `prediction_gain_db` are better, both on passages that no stage learned
from. The saved view **Results** shows these columns. Select two `pipeline` runs and click Compare
to see how their params and results differ. The served version is the one with the alias `champion`
of the model `songcast` (Models, in the menu); `songcast rollback` restores the previous champion.
"""


def experiment_tags() -> dict[str, str]:
    """Return the tags of the experiment: its description and the saved view "Results"."""
    now = time.time_ns() // 1_000_000
    state = {"selectedColumns": COLUMNS_OF_VIEW, "columnOrder": COLUMNS_OF_VIEW}
    view = {"name": "Results", "createdAt": now, "updatedAt": now, "state": json.dumps(state)}
    return {NOTE: ABOUT, f"{VIEW_TAG}{VIEW}": json.dumps(view)}


def headline(summary: Mapping[str, Mapping[str, Any]], kind: str) -> str:
    """Return the result of a model in one line, which MLflow's lists show."""
    line = f"{kind}, {bits_per_sample(summary[kind]):.3f} bits per sample"
    if "ridge" in summary:
        gain_db = mean_gain_db(summary[kind]) - mean_gain_db(summary["ridge"])
        line += f", {gain_db:.1f} dB over ridge"
    return f"**{line}**"


def accuracy(evaluation: Mapping[str, Any], kind: str) -> str:
    """Return the tables of all forecasters, and of every song with the model ``kind``."""
    songs = [
        [slug, f"{mean_gain_db(entry[kind]):.2f}", f"{bits_per_sample(entry[kind]):.4f}"]
        for slug, entry in evaluation["songs"].items()
    ]
    by_song = markdown_table(["song", *COLUMNS[1:3]], songs)
    return f"{_table(evaluation['summary'])}\n\n{by_song}\n"


def note_of_run(evaluation: Mapping[str, Any], kind: str) -> str:
    """Return the description of the run of train or retrain, and of a version."""
    return f"{headline(evaluation['summary'], kind)}\n\n{accuracy(evaluation, kind)}"


def note_of_pipeline(evaluation: Mapping[str, Any], runs: Mapping[str, str]) -> str:
    """Return the description of the parent run. ``runs``: kind to run id."""
    summary = evaluation["summary"]
    ids = ", ".join(f"{kind} `{run_id}`" for kind, run_id in runs.items())
    return (
        f"{headline(summary, best_of(summary, runs))}\n\n{_table(summary)}\n\n"
        f"Listen to it: the artifact `report.html`. Runs: {ids}.\n"
    )


def _table(summary: Mapping[str, Mapping[str, Any]]) -> str:
    return f"{markdown_table(COLUMNS, result_rows(summary))}\n\n{EXPLAINED}"

"""The descriptions of runs: markdown with the result table, shown by the MLflow UI."""

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


def note_of_run(evaluation: Mapping[str, Any], kind: str) -> str:
    """Return the description of the run of train or retrain: all forecasters, then every song."""
    songs = [
        [slug, f"{mean_gain_db(entry[kind]):.2f}", f"{bits_per_sample(entry[kind]):.4f}"]
        for slug, entry in evaluation["songs"].items()
    ]
    by_song = markdown_table(["song", *COLUMNS[1:3]], songs)
    return f"{_results(evaluation['summary'], kind)}\n\n{by_song}\n"


def note_of_pipeline(evaluation: Mapping[str, Any], runs: Mapping[str, str]) -> str:
    """Return the description of the parent run. ``runs``: kind to run id."""
    summary = evaluation["summary"]
    ids = ", ".join(f"{kind} `{run_id}`" for kind, run_id in runs.items())
    return (
        f"{_results(summary, best_of(summary, runs))}\n\n"
        f"Listen to it: the artifact `report.html`. Runs: {ids}.\n"
    )


def _results(summary: Mapping[str, Mapping[str, Any]], kind: str) -> str:
    bits = bits_per_sample(summary[kind])
    result = f"**{kind}** needs {bits:.4f} bits per sample"
    if "cascade" in summary and kind != "cascade":
        less = bits_per_sample(summary["cascade"]) - bits
        result += f", {abs(less):.4f} {'less' if less >= 0 else 'more'} than cascade"
    table = markdown_table(COLUMNS, result_rows(summary))
    return f"{result}.\n\n{table}\n\n{EXPLAINED}"

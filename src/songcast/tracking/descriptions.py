"""The descriptions of runs: markdown with the result table, shown by the MLflow UI."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

HEAD = "| forecaster | prediction gain, dB | bits per sample | lag, samples |\n|---|--:|--:|--:|"
EXPLAINED = (
    "Means over passages that no fit has seen. Prediction gain: song power over error power, "
    "more is better. Bits: what a lossless file written with this forecaster costs, fewer is "
    "better. Lag: 0 for an honest predictor."
)


def note_of_run(evaluation: Mapping[str, Any], kind: str) -> str:
    """Return the description of the run of train or retrain: against the others, and by song."""
    songs = {slug: entry[kind] for slug, entry in evaluation["songs"].items()}
    table = "\n".join(
        f"| {slug} | {_gain(numbers)} | {_bits(numbers):.4f} |" for slug, numbers in songs.items()
    )
    return (
        f"{_finding(evaluation['summary'], kind)}\n\n{result_table(evaluation['summary'], kind)}"
        f"\n\n{EXPLAINED}\n\n| song | prediction gain, dB | bits per sample |\n|---|--:|--:|\n"
        f"{table}\n"
    )


def note_of_pipeline(evaluation: Mapping[str, Any], runs: Mapping[str, str]) -> str:
    """Return the description of the parent run. ``runs``: kind to run id."""
    summary = evaluation["summary"]
    best = best_of(summary, runs)
    ids = ", ".join(f"{kind} `{run_id}`" for kind, run_id in runs.items())
    return (
        f"{_finding(summary, best)}\n\n{result_table(summary, best)}\n\n{EXPLAINED}\n\n"
        f"Hear it: the artifact `report.html`. Models of the runs: {ids}.\n"
    )


def best_of(summary: Mapping[str, Mapping[str, Any]], kinds: Iterable[str]) -> str:
    """Return the one of ``kinds`` with the fewest bits; what has no number comes last."""
    return min(kinds, key=lambda kind: (math.isnan(_bits(summary[kind])), _bits(summary[kind])))


def result_table(summary: Mapping[str, Mapping[str, Any]], bold: str) -> str:
    """Return the mean of every forecaster as a markdown table, one of them in bold."""
    lines = [HEAD]
    for name, numbers in summary.items():
        cells = [name, _gain(numbers), f"{_bits(numbers):.4f}"]
        cells.append(str(numbers["lag_samples"]))
        mark = "**" if name == bold else ""
        lines.append("| " + " | ".join(f"{mark}{cell}{mark}" for cell in cells) + " |")
    return "\n".join(lines)


def _finding(summary: Mapping[str, Mapping[str, Any]], kind: str) -> str:
    own = summary[kind]
    finding = f"**{kind}** needs {_bits(own):.4f} bits per sample"
    if "cascade" in summary and kind != "cascade":
        less = _bits(summary["cascade"]) - _bits(own)
        finding += f", {abs(less):.4f} {'less' if less >= 0 else 'more'} than cascade"
    return finding + "."


def _bits(numbers: Mapping[str, Any]) -> float:
    """Return bits per sample, NaN where they are no number (JSON has null for it)."""
    value = numbers["bits_per_sample"]
    return math.nan if value is None else float(value)


def _gain(numbers: Mapping[str, Any]) -> str:
    """Return the gain, the mean over channels that are not silent; a dash where all are."""
    value = numbers["prediction_gain_db"]
    known = [v for v in (value if isinstance(value, list) else [value]) if v is not None]
    return f"{math.fsum(known) / len(known):.2f}" if known else "–"

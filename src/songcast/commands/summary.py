"""`songcast summary`: the results of the pipeline."""

import argparse
import json
from pathlib import Path

from songcast import files
from songcast.errors import SongcastError
from songcast.registry import versions
from songcast.registry.models import is_alias, pin
from songcast.report import results
from songcast.report.console import print_table

WHERE = (
    ("report.html", "listen: original, predictions, continuation, residual"),
    ("make ui", "runs, metrics, plots and models in the MLflow UI"),
    ("listening/", "original and predicted passages of each song, as wav"),
    ("metrics/evaluation.json", "every number, song by song"),
)


def run(arguments: argparse.Namespace) -> None:
    """Print the summary. Raises ``RegistryError`` before the first evaluation."""
    root = files.root()
    evaluation = results.read_evaluation(root / results.EVALUATION)
    rows = results.result_rows(evaluation["summary"])
    if arguments.markdown:
        print(results.markdown_table(results.COLUMNS, rows))
        return
    registered = registry_line(root / files.REGISTERED)
    songs = len(evaluation.get("songs", ()))
    print(f"Means over the held-out passages of {songs} songs (* best):")
    print_table(results.COLUMNS, rows)
    if evaluation.get("retraining", {}).get("new_songs"):
        print(f"\n{results.retraining_line(evaluation['retraining'])}")
    print(f"\n{registered}\n")
    moved = parent_line(root / files.METRICS / "retrain.json")
    if moved is not None:
        print(f"{moved}\n")
    for place, content in WHERE:
        print(f"{place:<25}{content}")


def parent_line(path: Path) -> str | None:
    """Return a line if ``retrain.parent`` is an alias that has moved since the stage retrain ran.

    ``path``: of metrics/retrain.json. DVC does not rerun retrain when an alias moves.
    """
    try:
        parent = json.loads(path.read_text())["parent"]
        present = pin(parent["name"]) if is_alias(parent["name"]) else parent["uri"]
    except (OSError, ValueError, KeyError, TypeError, SongcastError):
        return None
    if present == parent["uri"]:
        return None
    return (
        f"{parent['name']} is now {present}; models/retrain was trained from {parent['uri']}. "
        "To train it again: `dvc repro --force --single-item retrain`, then `make run`."
    )


def registry_line(path: Path) -> str:
    """Return a line on the champion, the challenger and the gate, from the registry.

    ``path``: of registered.json, which knows the objections of the gate to the last candidate.
    """
    known, aliases = versions.read_registry()
    champion, challenger = (aliases.get(a) for a in (versions.CHAMPION, versions.CHALLENGER))
    if not known:
        return "Nothing is registered: run `dvc repro register`."
    try:
        content = json.loads(path.read_text())
        kinds = {number: f" ({kind})" for kind, number in content["versions"].items()}
        reasons = "; ".join(content["gate"]["reasons"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        kinds, reasons = {}, ""
    served, best = (
        "none" if number is None else f"version {number}{kinds.get(number, '')}"
        for number in (champion, challenger)
    )
    line = f"champion: {served}; challenger: {best}"
    return f"{line}; the gate is closed: {reasons}" if reasons else line

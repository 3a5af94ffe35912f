"""`songcast summary`: the results of the pipeline."""

import argparse
import json
from pathlib import Path

from songcast.commands import Subparsers, add_command

WHERE = (
    ("report.html", "listen: original, predictions, continuation, residual"),
    ("make ui", "runs, metrics, plots and models in the MLflow UI"),
    ("listening/", "original and predicted passages of each song, as wav"),
    ("metrics/evaluation.json", "every number, song by song"),
)


def add(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "summary",
        run,
        "print the results of the pipeline",
        "Prints the mean prediction gain and bits per sample of every forecaster on held-out "
        "passages, the champion and the challenger, and the files with details.",
        "songcast summary",
        json=False,
    )
    parser.add_argument(
        "--markdown", action="store_true", help="print the table alone, as markdown"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the summary. Raises ``RegistryError`` before the first evaluation."""
    from songcast import files
    from songcast.report.console import print_table
    from songcast.report.results import (
        COLUMNS,
        EVALUATION,
        markdown_table,
        read_evaluation,
        result_rows,
        retraining_line,
    )

    root = files.root()
    evaluation = read_evaluation(root / EVALUATION)
    rows = result_rows(evaluation["summary"])
    if arguments.markdown:
        print(markdown_table(COLUMNS, rows))
        return 0
    registered = registry_line(root / files.REGISTERED)
    songs = len(evaluation.get("songs", ()))
    print(f"Means over the held-out passages of {songs} songs (* best):")
    print_table(COLUMNS, rows)
    if evaluation.get("retraining", {}).get("new_songs"):
        print(f"\n{retraining_line(evaluation['retraining'])}")
    print(f"\n{registered}\n")
    moved = parent_line(root / files.METRICS / "retrain.json")
    if moved is not None:
        print(f"{moved}\n")
    for place, content in WHERE:
        print(f"{place:<25}{content}")
    return 0


def parent_line(path: Path) -> str | None:
    """Return a line if ``retrain.parent`` is an alias that has moved since the stage retrain ran.

    ``path``: of metrics/retrain.json. DVC does not rerun retrain when an alias moves.
    """
    from songcast.errors import SongcastError
    from songcast.registry.models import is_alias, pin

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
    from songcast.registry.versions import CHALLENGER, CHAMPION, read_registry

    versions, aliases = read_registry()
    champion, challenger = (aliases.get(alias) for alias in (CHAMPION, CHALLENGER))
    if not versions:
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

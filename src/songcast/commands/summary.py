"""`songcast summary`: what `make run` found, and where to look."""

import argparse
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from songcast.commands import Subparsers, add_command

WHERE = (
    ("report.html", "hear and see it: original, predictions, continuation, residual"),
    ("make ui", "runs, metrics, plots and models in the MLflow UI"),
    ("listening/", "original and predicted passages of each song, as wav"),
    ("metrics/evaluation.json", "every number, song by song"),
)


def add(subparsers: Subparsers) -> None:
    """Add the command."""
    add_command(
        subparsers,
        "summary",
        run,
        "print what `make run` found",
        "The mean gain and bits of every forecaster on passages that no fit has seen, the best "
        "marked; which version is champion; where to look.",
        "songcast summary",
    )


def run(arguments: argparse.Namespace) -> int:  # noqa: ARG001
    """Print the summary. Raises ``RegistryError`` where nothing was evaluated yet."""
    from songcast import files
    from songcast.report.console import print_table
    from songcast.stages.register import EVALUATION, REGISTERED, read_evaluation

    root = files.root()
    evaluation = read_evaluation(root / EVALUATION)
    rows = evaluation_rows(check_summary(root / EVALUATION, evaluation))
    served = registry_line(root / REGISTERED)
    songs = len(evaluation.get("songs", ()))
    print(f"Means over the unseen passages of {songs} songs (* best):")
    print_table(["forecaster", "gain dB", "bits/sample", "lag"], rows)
    print()
    print(served)
    print()
    for place, what in WHERE:
        print(f"{place:<25}{what}")
    return 0


def check_summary(path: Path, evaluation: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the summary of an evaluation. Raises ``RegistryError`` where it holds none."""
    from songcast.errors import RegistryError

    summary = evaluation.get("summary")
    whole = isinstance(summary, dict) and all(isinstance(e, dict) for e in summary.values())
    if not summary or not whole:
        raise RegistryError(f"{path}: holds no summary: run `dvc repro evaluate`")
    found: Mapping[str, Any] = summary
    return found


def evaluation_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """Return a row for each forecaster; `` *`` marks the highest gain and the fewest bits."""
    from songcast.report.console import number

    def column(key: str, digits: int, sign: int) -> dict[str, str]:
        values = {name: entry.get(key) for name, entry in summary.items()}
        known = [sign * v for v in values.values() if isinstance(v, int | float) and v == v]
        best = max(known, default=math.inf)
        return {
            name: number(value, digits)
            + (" *" if isinstance(value, int | float) and sign * value == best else "  ")
            for name, value in values.items()
        }

    gains, bits = column("prediction_gain_db", 2, 1), column("bits_per_sample", 4, -1)
    return [
        [name, gains[name], bits[name], str(entry.get("lag_samples", "-"))]
        for name, entry in summary.items()
    ]


def registry_line(path: Path) -> str:
    """Say which version is champion, which challenger, and why the gate is closed if it is.

    Raises ``RegistryError`` where registered.json cannot be understood.
    """
    from songcast.errors import RegistryError

    try:
        content = json.loads(path.read_text())
        kinds = {number: kind for kind, number in content["versions"].items()}
        challenger, champion, gate = content["challenger"], content["champion"], content["gate"]
        passed, reasons = gate["passed"], "; ".join(gate["reasons"])
    except FileNotFoundError:
        return "Nothing is registered yet: run `dvc repro register`."
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RegistryError(
            f"{path}: cannot be understood ({error}): run `dvc repro --force register`"
        ) from None

    def version(number: int) -> str:
        return f"version {number}" + (f" ({kinds[number]})" if number in kinds else "")

    served = "no champion yet" if champion is None else f"champion: {version(champion)}"
    verdict = "it passed the gate" if passed else f"the gate is closed: {reasons}"
    return f"{served}; challenger: {version(challenger)}, {verdict}"

"""Stage register: both bundles become versions of the registered model ``songcast``.

Run as ``python -m songcast.stages.register``. Running it again registers nothing twice.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from songcast import registry
from songcast.bundle import CONTINUATION, read_manifest, write_package
from songcast.files import REGISTERED, write_json
from songcast.registry import files as registry_files
from songcast.registry import promotion
from songcast.registry.model_card import model_card
from songcast.report.results import EVALUATION, read_evaluation
from songcast.stages import run_stage
from songcast.tracking import lineage
from songcast.tracking.evaluation_log import KINDS, log_evaluations, measured
from songcast.tracking.rebuild import ensure_run


def register(folder: Path) -> dict[str, Any]:
    """Register the bundles in ``folder``/models and return the content of registered.json.

    Raises ``SongcastError`` where an output of an earlier stage or the store is missing.
    """
    evaluation = read_evaluation(folder / EVALUATION)
    numbers: dict[str, int] = {}
    entries = {kind: measured(evaluation, kind) for kind in (*KINDS, "ridge")}
    models = folder / "models"
    runs = {kind: ensure_run(kind, models / kind) for kind in KINDS}
    for kind, run_id in runs.items():
        with tempfile.TemporaryDirectory() as scratch:
            package = Path(scratch) / kind
            write_package(package, models / kind, models / CONTINUATION)
            numbers[kind] = registry.register_bundle(
                run_id, package, kind, entries[kind], entries["ridge"], tags=recipe(folder)
            )
    log_evaluations(evaluation, folder, runs)
    for kind, number in numbers.items():
        describe(folder, number, kind, evaluation)
    decision = promotion.decide(evaluation, numbers)
    return {
        "name": registry.NAME,
        "versions": numbers,
        "challenger": decision.challenger,
        "champion": decision.champion,
        "gate": {"passed": decision.gate.passed, "reasons": list(decision.gate.reasons)},
    }


def recipe(folder: Path) -> dict[str, str]:
    """Return the tags that say how a version was made, beside those of its run."""
    params = lineage.params(folder)
    seeds = lineage.seeds(params)
    return {registry.PARAMS: json.dumps(params), registry.SEEDS: json.dumps(seeds)}


def describe(folder: Path, number: int, kind: str, evaluation: dict[str, Any]) -> None:
    """Write the model card and the lineage of a version beside its model."""
    found = registry.version(number)
    songs = lineage.songs(folder)
    rate = read_manifest(folder / "models" / kind, verify=False).get("sample_rate_hz")
    short = {k: v for k, v in found.tags.items() if k != registry.PARAMS}
    card = model_card(found.uri, kind, evaluation, songs, short, rate)
    said = {"version": number, "kind": kind, "tags": dict(found.tags), "songs": songs}
    files = {registry_files.CARD: card, registry_files.LINEAGE: json.dumps(said, indent=2)}
    registry_files.attach(found, files)
    registry.set_description(found, card.partition("## What it learned from")[0])


def main() -> None:
    """Register the outputs of this folder; write registered.json."""
    content = register(Path.cwd())
    write_json(REGISTERED, content)
    passed = content["gate"]["passed"]
    verdict = "gate passed" if passed else f"gate closed: {'; '.join(content['gate']['reasons'])}"
    served = "none" if content["champion"] is None else f"version {content['champion']}"
    print(f"challenger: version {content['challenger']}; champion: {served}; {verdict}")


if __name__ == "__main__":
    run_stage(main)

"""Stage register: log the evaluation to MLflow, package both models and register them.

Run as ``python -m songcast.stages.register``. Every `dvc repro` runs it: the registry decides
what is registered, not registered.json. Running it again registers nothing twice. An experiment
logs its evaluation and registers nothing, unless ``register.in_experiments`` is true.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

from songcast.bundle import CONTINUATION, read_manifest, write_package
from songcast.config import Params
from songcast.files import PARAMS as PARAMS_FILE
from songcast.files import REGISTERED, write_json
from songcast.registry.downloads import CARD
from songcast.registry.gate import Gate
from songcast.registry.model_card import model_card
from songcast.registry.promotion import decide
from songcast.registry.registration import register_bundle, set_description
from songcast.registry.state import digest_of_inputs, is_current, store_name
from songcast.registry.versions import (
    CHALLENGER,
    CHAMPION,
    NAME,
    attach,
    get_version,
    read_registry,
)
from songcast.report.results import EVALUATION, read_evaluation
from songcast.stages import run_stage
from songcast.tracking.evaluation_log import KINDS, log_evaluations, measured
from songcast.tracking.runs import ensure_run


def register(folder: Path) -> dict[str, Any]:
    """Register the bundles in ``folder``/models and return the content of registered.json.

    Raises ``SongcastError`` if an output of an earlier stage or the store is missing.
    """
    evaluation = read_evaluation(folder / EVALUATION)
    numbers: dict[str, int] = {}
    entries = {kind: measured(evaluation, kind) for kind in (*KINDS, "ridge")}
    models = folder / "models"
    runs = {kind: ensure_run(kind, models / kind) for kind in KINDS}
    experiment = os.environ.get("DVC_EXP_NAME")
    registers = not experiment or Params.load(folder / PARAMS_FILE).registration.in_experiments
    for kind, run_id in runs.items() if registers else ():
        with tempfile.TemporaryDirectory() as scratch:
            package = Path(scratch) / kind
            write_package(package, models / kind, models / CONTINUATION)
            entry, ridge = entries[kind], entries["ridge"]
            numbers[kind] = register_bundle(run_id, package, kind, entry, ridge)
    log_evaluations(evaluation, folder, runs)
    for kind, number in numbers.items():
        describe(folder, number, kind, evaluation)
    reason = f"experiment {experiment}: nothing is registered (register.in_experiments: false)"
    gate = decide(evaluation, numbers) if registers else Gate(passed=False, reasons=(reason,))
    _, aliases = read_registry()
    return {
        "name": NAME,
        "store": store_name(),
        "versions": numbers,
        "challenger": aliases.get(CHALLENGER),
        "champion": aliases.get(CHAMPION),
        "gate": {"passed": gate.passed, "reasons": list(gate.reasons)},
    }


def describe(folder: Path, number: int, kind: str, evaluation: dict[str, Any]) -> None:
    """Write the model card of a version beside its model, and its description."""
    version = get_version(number)
    rate_hz = read_manifest(folder / "models" / kind, verify=False).get("sample_rate_hz")
    card = model_card(version.uri, kind, evaluation, version.lineage, rate_hz)
    attach(version, CARD, card)
    set_description(version, card.partition("## Training data")[0])


def main() -> None:
    """Register the outputs of this folder; write registered.json if anything is different."""
    folder = Path.cwd()
    inputs = None if os.environ.get("DVC_EXP_NAME") else digest_of_inputs(folder)
    if is_current(folder / REGISTERED, inputs):
        print("the registry is up to date")
        return
    content = {**register(folder), "inputs": inputs}
    write_json(REGISTERED, content)
    passed = content["gate"]["passed"]
    verdict = "gate passed" if passed else f"gate closed: {'; '.join(content['gate']['reasons'])}"
    served = "none" if content["champion"] is None else f"version {content['champion']}"
    print(f"challenger: version {content['challenger']}; champion: {served}; {verdict}")


if __name__ == "__main__":
    run_stage(main)

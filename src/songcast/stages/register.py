"""Stage register: both bundles become versions of the registered model ``songcast``.

Run as ``python -m songcast.stages.register``. Running it again registers nothing twice.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from songcast import registry, tracking
from songcast.bundle import read_manifest
from songcast.errors import RegistryError, SongcastError

KINDS = ("train", "retrain")
EVALUATION, REGISTERED = Path("metrics/evaluation.json"), Path("registered.json")


def register(folder: Path) -> dict[str, Any]:
    """Register the bundles in ``folder``/models and return the content of registered.json.

    Raises ``SongcastError`` where an output of an earlier stage or the store is missing.
    """
    evaluation = read_evaluation(folder / EVALUATION)
    numbers: dict[str, int] = {}
    for kind in KINDS:
        bundle = folder / "models" / kind
        entry = registry.measured(evaluation, kind)
        run_id = run_of(kind, bundle)
        tracking.log_evaluation(run_id, *evaluation_log(evaluation, kind, folder))
        numbers[kind] = registry.register_bundle(run_id, bundle, kind, entry)
    decision = registry.decide(evaluation, numbers)
    return {
        "name": registry.NAME,
        "versions": numbers,
        "challenger": decision.challenger,
        "champion": decision.champion,
        "gate": {"passed": decision.gate.passed, "reasons": list(decision.gate.reasons)},
    }


def run_of(kind: str, bundle: Path) -> str:
    """Return the MLflow run of a stage, rebuilt from its outputs where it is missing."""
    manifest = read_manifest(bundle)
    history = bundle / "history.csv"
    files = {"history.csv": history} if history.is_file() else {}
    return tracking.ensure_run(
        kind,
        bundle,
        params=manifest.get("params") or {},
        history_rows=tracking.read_history(history),
        model_files=files,
    )


def evaluation_log(
    evaluation: Mapping[str, Any], kind: str, folder: Path
) -> tuple[dict[str, float], dict[str, Path]]:
    """Return the metrics and files that a run gets from the evaluation.

    Evaluate and register both use it, so that what one has logged the other finds unchanged.
    """
    metrics: dict[str, float] = {}
    entry = registry.measured(evaluation, kind)
    tables = {"": entry["summary"], **{f"test/{s}/": t for s, t in entry["songs"].items()}}
    for prefix, table in tables.items():
        for key, value in table.items():
            values = value if isinstance(value, list) else [value]
            for channel, number in enumerate(values):
                if isinstance(number, int | float):
                    suffix = f"/channel_{channel}" if isinstance(value, list) else ""
                    metrics[f"{prefix}{key}{suffix}"] = float(number)
    heard = {"train": ("pred_song", "continuation"), "retrain": ("pred_song_updated",)}
    names = {f"{name}.wav" for name in ("original", *heard.get(kind, ()))}
    paths = [p for p in sorted(folder.glob("listening/*/*.wav")) if p.name in names]
    paths += sorted(p for p in folder.glob("plots/**/*") if p.suffix in {".png", ".svg"})
    paths += [p for p in (folder / "report.html",) if p.is_file()]
    return metrics, {p.relative_to(folder).as_posix(): p for p in paths}


def read_evaluation(path: Path) -> dict[str, Any]:
    """Read metrics/evaluation.json. Raises ``RegistryError`` where it is missing or broken."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise RegistryError(f"{path}: missing: run `dvc repro evaluate` first") from None
    except ValueError as error:
        raise RegistryError(f"{path}: not valid JSON ({error}): run `dvc repro evaluate`") from None
    if not isinstance(content, dict):
        raise RegistryError(f"{path}: not an evaluation: run `dvc repro evaluate`")
    return content


def write_registered(path: Path, content: Mapping[str, Any]) -> None:
    """Write registered.json whole or not at all."""
    scratch = path.with_name(f".{path.name}.writing")
    scratch.write_text(json.dumps(content, indent=2) + "\n")
    scratch.replace(path)


def main() -> int:
    """Register the outputs of this folder; 0, or 2 with one line on stderr."""
    try:
        content = register(Path.cwd())
    except SongcastError as error:
        print(f"songcast register: {error}", file=sys.stderr)
        return 2
    write_registered(Path(REGISTERED), content)
    passed = content["gate"]["passed"]
    verdict = "gate passed" if passed else f"gate closed: {'; '.join(content['gate']['reasons'])}"
    served = "none" if content["champion"] is None else f"version {content['champion']}"
    print(f"challenger: version {content['challenger']}; champion: {served}; {verdict}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What a stage's outputs mean in MLflow: how a missing run is rebuilt from them.

Evaluate and register share these, so that what one has logged the other finds unchanged.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from songcast import tracking
from songcast.bundle import read_manifest
from songcast.errors import RegistryError

# Which of the listening files belongs to which run.
HEARD = {
    "train": ("original.wav", "pred_song.wav", "continuation.wav"),
    "retrain": ("original.wav", "pred_song_updated.wav"),
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
    """Return the metrics and the files that the run of ``kind`` gets from the evaluation.

    ``evaluation``: the content of metrics/evaluation.json. ``folder``: where listening/, plots/
    and report.html are. Pass both on to ``tracking.log_evaluation``. Raises ``RegistryError``
    where ``kind`` was not evaluated.
    """
    metrics: dict[str, float] = {}
    entry = measured(evaluation, kind)
    tables = {"": entry["summary"], **{f"test/{s}/": t for s, t in entry["songs"].items()}}
    for prefix, table in tables.items():
        for key, value in table.items():
            values = value if isinstance(value, list) else [value]
            for channel, number in enumerate(values):
                if isinstance(number, int | float):
                    suffix = f"/channel_{channel}" if isinstance(value, list) else ""
                    metrics[f"{prefix}{key}{suffix}"] = float(number)
    paths = [p for p in sorted(folder.glob("listening/*/*.wav")) if p.name in HEARD.get(kind, ())]
    paths += sorted(p for p in folder.glob("plots/**/*") if p.suffix in {".png", ".svg"})
    paths += [p for p in (folder / "report.html",) if p.is_file()]
    return metrics, {p.relative_to(folder).as_posix(): p for p in paths}


def measured(evaluation: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return what is kept with a version: its part of metrics/evaluation.json.

    ``{"summary": {...}, "songs": {SLUG: {...}}}``. Raises ``RegistryError`` where ``kind`` was
    not evaluated.
    """
    try:
        return {
            "summary": evaluation["summary"][kind],
            "songs": {slug: song[kind] for slug, song in evaluation["songs"].items()},
        }
    except (KeyError, TypeError, AttributeError):
        raise RegistryError(
            f"metrics/evaluation.json says nothing about {kind}: run `dvc repro evaluate`"
        ) from None

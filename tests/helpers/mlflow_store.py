"""A repository with an empty MLflow store, for tests. Not a test module."""

import fcntl
import functools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from songcast.bundle import read_manifest, write_bundle
from songcast.stages import run_stage
from songcast.tracking import store as tracking_store

# The variable that names a folder which all processes of one run of pytest share.
SHARED = "SONGCAST_TESTS_SHARED"


@functools.cache
def _template() -> Path:
    """Return an empty database: migrating a new one costs 4 to 14 s, copying it nothing.

    All processes of one run of pytest share it; ``pytest_configure`` says where.
    """
    database = Path(os.environ[SHARED]) / "mlflow.db"
    with database.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not database.exists():
            scratch = database.with_name("migrating.db")
            tracking_store.connect(f"sqlite:///{scratch}")
            scratch.rename(database)
    return database


def use_repository(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make ``folder`` the repository root and cwd; give it an empty store if it has none."""
    tracking_store.import_mlflow()
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    database = folder / "mlruns" / "mlflow.db"
    if not database.exists():
        database.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(_template(), database)
    (folder / "dvc.yaml").touch()
    monkeypatch.setenv("DVC_ROOT", str(folder))
    monkeypatch.chdir(folder)
    return folder


def exit_code(main: Callable[[], int | None]) -> int | str | None:
    """Run a stage's ``main`` as its program does; return with what it ends (None: all is well)."""
    with pytest.raises(SystemExit) as ended:
        run_stage(main)
    return ended.value.code


def make_bundle(folder: Path, weight: float, **details: Any) -> Path:
    """Write a bundle of one array; equal ``weight``, equal sha256."""
    write_bundle(folder, kind="fake", details=details, arrays={"w": np.full(3, weight)})
    return folder


def weights_of(folder: Path) -> str:
    return str(read_manifest(folder)["weights_sha256"])


def numbers(bits: float, **others: Any) -> dict[str, Any]:
    """One forecaster's entry in metrics/evaluation.json."""
    good = {"prediction_gain_db": 40.0, "lag_samples": 0, "clipped_samples": 0}
    return {**good, "bits_per_sample": bits, **others}


def evaluation_of(songs: tuple[str, ...] = ("a", "b"), **forecasters: Any) -> dict[str, Any]:
    """The content of metrics/evaluation.json: every song measured alike."""
    return {"summary": forecasters, "songs": dict.fromkeys(songs, forecasters)}


def write_evaluation(folder: Path, content: dict[str, Any]) -> None:
    """Write metrics/evaluation.json, and a continuation bundle for the packages."""
    arrays = {"w": np.zeros(2)}
    write_bundle(folder / "models" / "continuation", kind="continuation", details={}, arrays=arrays)
    (folder / "metrics").mkdir(exist_ok=True)
    (folder / "metrics" / "evaluation.json").write_text(json.dumps(content))

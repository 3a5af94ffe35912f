"""A repository with an empty MLflow store."""

import fcntl
import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from songcast.bundle import read_manifest, write_bundle
from songcast.data.corpus import PreparedSong, write_index
from songcast.stages import run_stage
from songcast.tracking import store as tracking_store

# The variable that names a folder which all processes of one run of pytest share.
SHARED = "SONGCAST_TESTS_SHARED"


@functools.cache
def _template() -> Path:
    """Return an empty database to copy, because creating one takes 4 to 14 s.

    All processes of one run of pytest share it in a folder that ``pytest_configure`` makes.
    """
    database = Path(os.environ[SHARED]) / "mlflow.db"
    with database.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not database.exists():
            scratch = database.with_name("migrating.db")
            # In a process of its own: the migration closes streams of logging, also pytest's.
            code = "import sys; from songcast.tracking import store; store.connect(sys.argv[1])"
            command = [sys.executable, "-c", code, f"sqlite:///{scratch}"]
            subprocess.run(command, check=True, capture_output=True)
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
    """Run the ``main`` of a stage as its program does; return the exit code, None for success."""
    with pytest.raises(SystemExit) as ended:
        run_stage(main)
    return ended.value.code


def make_bundle(folder: Path, weight: float, history: str = "", **details: Any) -> Path:
    """Write a bundle with one array; equal ``weight``, equal sha256. ``history`` is history.csv."""
    arrays = {"w": np.full(3, weight)}
    write_bundle(folder, kind="fake", details=details, arrays=arrays, history=history or None)
    return folder


def run_of(run_id: str) -> Any:
    return tracking_store.connect().get_run(run_id)


def all_runs(stage: str | None = None) -> list[Any]:
    """Return the runs of all stages, or of one; the runs of ``pipeline`` are the parents."""
    client = tracking_store.connect()
    runs = client.search_runs([tracking_store.experiment_id(client)])
    stages = {run.info.run_id: run.data.tags["songcast.stage"] for run in runs}
    wanted = {stage} if stage else set(stages.values()) - {"pipeline"}
    return [run for run in runs if stages[run.info.run_id] in wanted]


def parent_of(run_id: str) -> Any:
    return run_of(run_of(run_id).data.tags["mlflow.parentRunId"])


def steps_of(run_id: str, key: str = "loss") -> list[tuple[int, float]]:
    """The step and value of each point of a metric."""
    history = tracking_store.connect().get_metric_history(run_id, key)
    return sorted((point.step, point.value) for point in history)


def use_dead_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set a tracking server that does not answer."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def weights_of(folder: Path) -> str:
    return str(read_manifest(folder)["weights_sha256"])


def numbers(bits: float, **others: Any) -> dict[str, Any]:
    """Return the entry of one forecaster in metrics/evaluation.json."""
    good = {"prediction_gain_db": 40.0, "lag_samples": 0, "clipped_samples": 0}
    return {**good, "bits_per_sample": bits, **others}


def evaluation_of(songs: tuple[str, ...] = ("a", "b"), **forecasters: Any) -> dict[str, Any]:
    """Return the content of metrics/evaluation.json with equal numbers for every song."""
    return {"summary": forecasters, "songs": dict.fromkeys(songs, forecasters)}


def write_evaluation(folder: Path, content: dict[str, Any]) -> None:
    """Write metrics/evaluation.json, and a continuation bundle for the packages."""
    arrays = {"w": np.zeros(2)}
    write_bundle(folder / "models" / "continuation", kind="continuation", details={}, arrays=arrays)
    (folder / "metrics").mkdir(exist_ok=True)
    (folder / "metrics" / "evaluation.json").write_text(json.dumps(content))


def write_prepared(folder: Path, **songs: dict[str, tuple[int, int]]) -> None:
    """Write prepared/songs.json with songs of one second: slug to splits."""
    shape = {"source_sample_rate_hz": 44100, "sample_rate_hz": 44100, "frames": 44100}
    prepared = [
        PreparedSong(
            **shape,
            slug=slug,
            source=f"{slug}.wav",
            sha256="ab" * 32,
            channels=2,
            peak=1,
            splits=splits,
            path=folder,
        )
        for slug, splits in songs.items()
    ]
    (folder / "prepared").mkdir()
    write_index(folder / "prepared", 44100, prepared)

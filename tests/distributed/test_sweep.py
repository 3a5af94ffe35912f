"""`songcast sweep`: its settings, its trials, and their MLflow runs."""

import json
import math
import os
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from helpers.mlflow_store import use_repository
from helpers.small_models import RATE_HZ, music
from songcast.cli import main
from songcast.commands.sweep import SWEEP, TRIAL, Trial, log_sweep
from songcast.data.corpus import PreparedSong, write_index
from songcast.distributed import cluster
from songcast.tracking.store import connect, experiment_id

pytest.importorskip("ray")

REPOSITORY = Path(__file__).parents[2] / "params.yaml"
SMALL = {
    "front_end": "none",
    "step_frames": 16,
    "units": 4,
    "head_units": [4],
    "look_back": 4,
    "epochs": 2,
    "steps_per_epoch": 2,
    "batch_size": 2,
    "crop_frames": 256,
}


def write_params(folder, space, trials=2, grace_epochs=1):
    document = yaml.safe_load(REPOSITORY.read_text())
    document["train"] |= SMALL
    document["sweep"] |= {"trials": trials, "grace_epochs": grace_epochs, "space": space}
    (folder / "params.yaml").write_text(yaml.safe_dump(document))


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A repository with one prepared song and an empty store."""
    use_repository(tmp_path, monkeypatch)
    (tmp_path / "prepared").mkdir()
    path = tmp_path / "prepared" / "a.npy"
    np.save(path, music(12000, 1))
    song = PreparedSong(
        slug="a",
        source="a.wav",
        sha256="0" * 64,
        source_sample_rate_hz=RATE_HZ,
        sample_rate_hz=RATE_HZ,
        frames=12000,
        channels=1,
        peak=9000,
        splits={"train": (0, 6000), "validation": (6000, 12000)},
        path=path,
    )
    write_index(path.parent, RATE_HZ, [song])
    write_params(tmp_path, {"units": [3, 4]})
    return tmp_path


def test_an_invalid_space_is_one_line(home, rejection):
    for space, reason in [
        ({"unit": [3]}, "sweep.space.unit is not a key of train; use one of: "),
        (
            {"units": [3, 0]},
            "sweep.space.units has 0, which is invalid for train.units; correct it",
        ),
        ({"learning_rate": {"low": 0.1, "high": 0.01}}, "low 0.1 must be below high 0.01"),
        ({}, "sweep.space"),
    ]:
        write_params(home, space)
        line = rejection("sweep")
        assert line.startswith("songcast sweep: params.yaml: ")
        assert reason in line


def test_grace_epochs_are_limited_to_the_epochs_of_train(home, rejection):
    write_params(home, {"units": [3]}, grace_epochs=3)
    assert "sweep.grace_epochs is 3; allowed: up to train.epochs, 2" in rejection("sweep")


def runs(kind):
    client = connect()
    results = client.search_runs([experiment_id(client)], f"tags.`{SWEEP}` = '{kind}'")
    return {run.data.tags.get(TRIAL): run for run in results}


def test_trials_are_runs_below_the_sweep_and_logged_once(home):
    rows = [{"step": float(i), "validation_bits_per_sample": 7.0 - i} for i in range(3)]
    trials = [
        Trial(name="one", values={"units": 3}, rows=rows),
        Trial(name="two", values={"units": 4}, rows=[], failed=True),
    ]
    parent = log_sweep("key", {"trials": 2}, trials[:1])
    assert log_sweep("key", {"trials": 2}, trials) == parent
    logged = runs("key")
    assert set(logged) == {None, "one", "two"}
    assert logged[None].info.run_id == parent
    assert logged["one"].data.tags["mlflow.parentRunId"] == parent
    assert logged["one"].data.params == {"units": "3"}
    assert logged["one"].data.metrics["validation_bits_per_sample"] == 5.0
    assert (logged["one"].info.status, logged["two"].info.status) == ("FINISHED", "FAILED")


def here(trial, space, *, trials, folder, **_):
    """Replacement of Ray: one trial per choice, one after the other, none of them twice."""
    results = []
    for number, value in enumerate(space["units"][:trials]):
        place = folder / f"trial-{number}"
        if not place.exists():
            place.mkdir(parents=True)
            rows = []
            trial({"units": value}, rows.append)
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (place / "result.json").write_text(lines)
        results.append((place.name, {"units": value}, place))
    return results


def test_the_command_trains_logs_and_recommends_the_best(home, monkeypatch, capsys):
    monkeypatch.setattr(cluster, "tune", here)
    assert main(["sweep", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [trial["epochs"] for trial in document["trials"]] == [2, 2]
    bits = [trial["validation_bits_per_sample"] for trial in document["trials"]]
    assert bits == sorted(bits)
    assert 4 < bits[0] < 16
    client = connect()
    children = client.search_runs(
        [experiment_id(client)], f"tags.`mlflow.parentRunId` = '{document['run_id']}'"
    )
    assert len(children) == 2
    best = document["trials"][0]["values"]["units"]
    assert main(["sweep"]) == 0
    assert f"dvc exp run -S train.units={best}" in capsys.readouterr().out


@pytest.mark.parametrize("learned", [True, False])
def test_a_diverged_trial_is_listed_last_and_never_recommended(home, monkeypatch, capsys, learned):
    def tune(trial, space, *, folder, **_):
        results = []
        for units, bits in ((3, math.nan), (4, 7.0 if learned else math.nan)):
            place = folder / f"trial-{units}"
            place.mkdir(parents=True, exist_ok=True)
            row = {"step": 0, "train_bits_per_sample": bits, "validation_bits_per_sample": bits}
            (place / "result.json").write_text(json.dumps(row) + "\n")
            results.append((place.name, {"units": units}, place))
        return results

    monkeypatch.setattr(cluster, "tune", tune)
    assert main(["sweep", "--json"]) == 0
    trials = json.loads(capsys.readouterr().out)["trials"]
    bits = [trial["validation_bits_per_sample"] for trial in trials]
    assert bits == ([7.0, None] if learned else [None, None])
    assert main(["sweep"]) == 0
    out = capsys.readouterr().out
    assert ("dvc exp run -S train.units=4" in out) == learned
    assert ("All trials failed or diverged" in out) != learned


@pytest.mark.slow
@pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\..*")
@pytest.mark.filterwarnings(r"ignore::FutureWarning:ray\..*")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_ray_runs_the_trials_and_a_second_sweep_runs_none_of_them_again(home, monkeypatch, capsys):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    write_params(home, {"learning_rate": {"low": 1e-3, "high": 1e-2}, "units": [3, 4]})
    assert main(["sweep", "--json"]) == 0
    first = json.loads(re.search(r"^\{.*", capsys.readouterr().out, re.S | re.M)[0])
    assert len(first["trials"]) == 2
    assert all(1 <= trial["epochs"] <= 2 and not trial["failed"] for trial in first["trials"])
    (folder,) = (home / "checkpoints").glob("sweep-*")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")}
    assert main(["sweep", "--json"]) == 0
    again = json.loads(re.search(r"^\{.*", capsys.readouterr().out, re.S | re.M)[0])
    assert again == first
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert os.environ.get("DVC_ROOT") == str(home)

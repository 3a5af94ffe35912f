"""The store is found, moves with its folder, and fails with a clear message."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers.mlflow_store import all_runs, make_bundle, run_of, use_repository
from songcast.tracking import lineage
from songcast.tracking import store as tracking_store
from songcast.tracking.embedded import mend, sqlite_uri
from songcast.tracking.runs import ensure_run
from songcast.tracking.stage_run import stage_run


@pytest.fixture
def repository(tmp_path, monkeypatch):
    return use_repository(tmp_path / "here", monkeypatch)


@pytest.mark.parametrize("name", ["with space", "100%25 ?#ü♪"])
def test_plain_mlflow_reads_and_writes_a_store_that_was_moved_or_copied(
    repository, tmp_path, monkeypatch, name
):
    mlflow = tracking_store.import_mlflow()
    note = repository / "note.txt"
    note.write_text("before the move")
    with stage_run("train", {}) as run:
        run.log_artifact(note)
    moved = tmp_path / "there" / name
    shutil.copytree(repository, moved)
    use_repository(moved, monkeypatch)
    tracking_store.connect()
    original = sqlite_uri(repository / "mlruns" / "mlflow.db")
    for uri in (tracking_store.tracking_uri(), original):
        plain = mlflow.MlflowClient(uri)
        place = repository if uri == original else moved
        assert plain.get_run(run.run_id).info.artifact_uri.startswith(f"{place.as_uri()}/mlruns/")
        assert [f.path for f in plain.list_artifacts(run.run_id)] == ["note.txt"]
        copy = plain.download_artifacts(run.run_id, "note.txt", str(tmp_path))
        assert Path(copy).read_text() == "before the move"
    with stage_run("train", {}) as later:
        later.log_artifact(moved / "note.txt")
    assert not list(repository.glob(f"mlruns/artifacts/songcast/{later.run_id}"))
    assert list(moved.glob(f"mlruns/artifacts/songcast/{later.run_id}/artifacts/note.txt"))
    assert {p.name for p in moved.parent.iterdir()} == {name}


def test_a_store_of_version_0_1_is_mended_and_the_places_of_others_are_not(repository):
    client = tracking_store.connect()
    file = repository / "mlruns" / "mlflow.db"
    mine = client.create_experiment("songcast", artifact_location="songcast:/songcast")
    other = client.create_experiment("other", artifact_location="s3://bucket/songcast")
    run = client.create_run(mine)
    mend(file)
    root = (repository / "mlruns" / "artifacts").as_uri()
    assert client.get_experiment(mine).artifact_location == f"{root}/songcast"
    assert client.get_run(run.info.run_id).info.artifact_uri.startswith(f"{root}/songcast/")
    assert client.get_experiment(other).artifact_location == "s3://bucket/songcast"
    file.chmod(0o444)
    mend(file)


def test_mlflow_tracking_uri_moves_everything(repository, tmp_path, monkeypatch):
    other = tmp_path / "server" / "other.db"
    other.parent.mkdir()
    shutil.copy(repository / "mlruns" / "mlflow.db", other)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{other}")
    bundle = make_bundle(repository / "models" / "train", 1.0)
    run_id = ensure_run("train", bundle)
    assert os.environ["MLFLOW_TRACKING_URI"] == f"sqlite:///{other}"
    assert run_of(run_id).info.status == "FINISHED"
    assert list(other.parent.glob("artifacts/songcast/*/artifacts/bundle/bundle.json"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert all_runs() == []


def test_logging_leaves_mlflows_process_wide_settings_alone(repository):
    mlflow = tracking_store.import_mlflow()
    before = mlflow.get_tracking_uri()
    ensure_run("train", make_bundle(repository / "models" / "train", 1.0))
    assert "MLFLOW_TRACKING_URI" not in os.environ
    assert mlflow.get_tracking_uri() == before


@pytest.mark.parametrize(
    ("code", "body"),
    [(401, "You are not authenticated. Please see https://mlflow.org"), (403, "Permission denied")],
)
def test_a_server_that_refuses_is_not_called_dead(code, body):
    said = tracking_store.explain(
        "http://127.0.0.1:5000",
        RuntimeError(
            "API request to endpoint /api/2.0/mlflow/experiments/search failed with error code "
            f"{code} != 200. Response body: '{body}'"
        ),
    )
    assert f"refused access ({body.partition('.')[0]}): check MLFLOW_TRACKING_USERNAME" in said


def test_importing_the_tracking_modules_does_not_import_mlflow():
    modules = "sys, songcast.registry.promotion, songcast.stages.register"
    code = f"import {modules}; print('mlflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_device_is_the_one_that_keras_uses(tmp_path, monkeypatch):
    monkeypatch.setattr(lineage, "backend", lambda: "tensorflow 2.21.0")
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho NVIDIA H200\necho NVIDIA H200\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    names = {"gpu:0": {"device_name": "NVIDIA H200"}}
    for gpus, device, unused in ((["gpu:0"], "NVIDIA H200", None), ([], "CPU", "NVIDIA H200")):
        details = SimpleNamespace(get_device_details=names.get)
        config = SimpleNamespace(get_visible_devices={"GPU": gpus}.get, experimental=details)
        monkeypatch.setitem(sys.modules, "tensorflow", SimpleNamespace(config=config))
        assert lineage.device() == device
        assert lineage.unused_gpu() == unused
        assert "H200" not in lineage.hardware()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert lineage.unused_gpu() is None


def test_lineage_records_commit_changes_songs_and_environment(tmp_path):
    def git(*words):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *words], check=True)

    assert lineage.git_state(tmp_path) == (None, None)
    assert lineage.data_hash(tmp_path) is None
    assert lineage.lock_hash(tmp_path) is None
    (tmp_path / "params.yaml").write_text("a: 1\n")
    (tmp_path / "dvc.lock").write_text("x")
    (tmp_path / "data.dvc").write_text("outs:\n- md5: 0123abcd.dir\n  path: data\n")
    (tmp_path / "requirements.lock").write_text("")
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "first")
    assert lineage.data_hash(tmp_path) == "0123abcd.dir"
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert lineage.lock_hash(tmp_path) == empty
    (tmp_path / "dvc.lock").write_text("the pipeline writes this itself")
    commit, dirty = lineage.git_state(tmp_path)
    assert len(commit) == 40
    assert dirty is False
    (tmp_path / "params.yaml").write_text("a: 2\n")
    assert lineage.git_state(tmp_path) == (commit, True)

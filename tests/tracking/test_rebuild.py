"""Runs are rebuilt from the outputs of their stages, once."""

import json

import pytest

from helpers.mlflow_store import (
    all_runs,
    make_bundle,
    parent_of,
    run_of,
    steps_of,
    use_repository,
    weights_of,
    write_prepared,
)
from songcast.errors import BundleError
from songcast.registry.registration import register_bundle
from songcast.tracking import runs as tracking_runs
from songcast.tracking import store as tracking_store
from songcast.tracking.evaluation_log import log_evaluation
from songcast.tracking.runs import ensure_parent, ensure_run
from songcast.tracking.stage_run import StageRun, stage_run

HISTORY = "step,loss,val_bits\n0,1.0,\n1,0.5,6.5\n"


@pytest.fixture
def repository(tmp_path, monkeypatch):
    return use_repository(tmp_path / "here", monkeypatch)


def test_a_missing_run_is_rebuilt_once_from_the_outputs_of_its_stage(repository):
    bundle = make_bundle(repository / "models" / "train", 1.0, HISTORY, params={"seed": 1})
    first = ensure_run("train", bundle)
    assert ensure_run("train", bundle) == first
    (logged,) = all_runs()
    assert (logged.info.run_id, logged.info.status) == (first, "FINISHED")
    assert logged.data.params == {"seed": "1"}
    assert logged.data.tags["songcast.rebuilt"] == "true"
    assert logged.data.tags["songcast.weights_sha256"] == weights_of(bundle)
    assert steps_of(first) == [(0, 1.0), (1, 0.5)]
    assert steps_of(first, "val_bits") == [(1, 6.5)]
    files = tracking_store.connect().list_artifacts(first)
    assert [file.path for file in files] == ["bundle"]
    assert ensure_run("retrain", bundle) != first  # another stage, another run


def test_a_rebuilt_run_has_the_origin_of_its_bundle(repository, monkeypatch):
    monkeypatch.setenv("DVC_EXP_NAME", "this-one")
    origin = {
        "time": "2026-01-02T03:04:05+00:00",
        "git_commit": "a" * 40,
        "hardware": "a large machine, 16 cores",
        "device": "NVIDIA H200",
    }
    bundle = make_bundle(repository / "models" / "train", 1.0, HISTORY, provenance=origin)
    run = run_of(ensure_run("train", bundle))
    assert {key: run.data.tags[f"songcast.{key}"] for key in origin} == origin
    assert not {"songcast.backend", "dvc.exp_name"} & run.data.tags.keys()
    assert run.info.user_id in (None, "", "unknown")
    assert run.info.start_time == run.info.end_time == 1767323045000


def interrupted(loss, *, run_by="train"):
    """Log one epoch; the end of the run never reaches the store."""
    run = StageRun(run_by)
    run.start({"seed": 1}, {}, None, None)
    run.log_metrics({"loss": loss}, 0)
    run.finish("KILLED")
    return run.run_id


def test_a_run_that_lost_its_connection_is_logged_again_and_marked_as_killed(repository):
    bundle = make_bundle(repository / "models" / "train", 1.0, HISTORY, params={"seed": 1})
    run_id = interrupted(1.0)
    tracking_store.connect().update_run(run_id, status="RUNNING")
    parent = parent_of(run_id).info.run_id
    again = ensure_run("train", bundle)
    assert (run_of(run_id).info.status, run_of(again).info.status) == ("KILLED", "FINISHED")
    assert steps_of(again) == [(0, 1.0), (1, 0.5)]
    assert (parent_of(again).info.run_id, parent_of(again).info.status) == (parent, "FINISHED")
    assert ensure_run("train", bundle) == again


def test_a_run_that_was_logged_live_is_not_rebuilt(repository):
    bundle = make_bundle(repository / "models" / "train", 1.0)
    with stage_run("train", {}) as live:
        live.log_bundle(bundle)
    assert ensure_run("train", bundle) == live.run_id
    assert ensure_parent() == parent_of(live.run_id).info.run_id


def test_an_altered_bundle_is_not_logged(repository):
    bundle = make_bundle(repository / "models" / "train", 1.0)
    (bundle / "weights.safetensors").write_bytes(b"altered")
    with pytest.raises(BundleError, match="altered"):
        ensure_run("train", bundle)
    assert all_runs() == []


def test_rebuilt_runs_share_one_parent(repository):
    for name, weight in (("train", 1.0), ("retrain", 2.0)):
        bundle = make_bundle(repository / "models" / name, weight)
        for _ in range(2):
            ensure_run(name, bundle)
    assert len(all_runs()) == 2
    assert len({parent_of(run.info.run_id).info.run_id for run in all_runs()}) == 1


def test_a_second_user_of_the_same_store_adds_no_parent(repository, tmp_path, monkeypatch):
    bundle = make_bundle(repository / "models" / "train", 1.0)
    run_id = ensure_run("train", bundle)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_store.tracking_uri())
    clone = tmp_path / "clone"
    clone.mkdir()
    monkeypatch.setenv("DVC_ROOT", str(clone))
    monkeypatch.chdir(clone)
    (clone / "dvc.yaml").touch()
    assert ensure_run("train", bundle) == run_id
    assert ensure_parent([run_id]) == parent_of(run_id).info.run_id
    assert len(all_runs("pipeline")) == 1


def test_runs_that_were_killed_are_marked_when_the_next_stage_starts(repository):
    client = tracking_store.connect()
    experiment = tracking_store.experiment_id(client)
    parent = tracking_runs.open_parent(client, experiment, "train")
    killed = tracking_runs.create_run(client, "train", {}, parent)
    client.update_run(parent, status="RUNNING")
    (repository / "params.yaml").write_text("train: {epochs: 2}")
    ensure_run("retrain", make_bundle(repository / "models" / "retrain", 1.0))
    assert {run_of(run_id).info.status for run_id in (killed, parent)} == {"KILLED"}


def test_an_evaluation_is_logged_once_until_it_changes(repository):
    wav = repository / "pred_song.wav"
    wav.write_bytes(b"RIFF")
    with stage_run("train", {}) as run:
        pass
    metrics = {"bits_per_sample": 6.0, "bits": 6.5}
    for _ in range(2):
        log_evaluation(run.run_id, metrics, {"listening/a/pred_song.wav": wav})
    assert steps_of(run.run_id, "bits") == [(0, 6.5)]
    client = tracking_store.connect()
    path = "listening/a/pred_song.wav"
    assert [f.path for f in client.list_artifacts(run.run_id, "listening/a")] == [path]
    log_evaluation(run.run_id, {"bits_per_sample": 5.0}, {})
    assert run_of(run.run_id).data.metrics["bits_per_sample"] == 5.0


def test_the_packaged_model_explains_itself(repository):
    write_prepared(repository, a={"train": (0, 9), "validation": (10, 20), "test": (20, 44100)})
    history = "step,train_bits_per_sample,validation_bits_per_sample\n0,7,6.9\n1,6,6.8\n2,5,7\n"
    models = repository / "models"
    bundle = make_bundle(models / "train", 1.0, history=history, params={"units": 96})
    run_id = ensure_run("train", bundle)
    version = register_bundle(run_id, bundle, "train", {})
    model_id = run_of(run_id).data.tags["songcast.model_id"]
    log_evaluation(run_id, {"bits_per_sample": 6.0}, {}, "**train** is good")
    assert run_of(run_id).data.tags["mlflow.note.content"] == "**train** is good"
    client = tracking_store.connect()
    model = client.get_logged_model(model_id)
    assert (model.source_run_id, model.params) == (run_id, {"units": "96"})
    assert model.tags["mlflow.note.content"] == "**train** is good"
    assert model.name == f"train-{weights_of(bundle)[:8]}"
    linked = [{"name": "songcast", "version": str(version)}]
    assert json.loads(model.tags["mlflow.modelVersions"]) == linked
    assert client.get_model_version("songcast", str(version)).source == f"models:/{model_id}"
    measured = {(m.key, m.value, m.dataset_name) for m in model.metrics}
    assert measured == {
        ("train_bits_per_sample", 6.0, "train"),
        ("validation_bits_per_sample", 6.8, "validation"),
        ("bits_per_sample", 6.0, "held-out"),
    }
    (definition,) = (repository / "mlruns").rglob("MLmodel")
    assert "file:" not in definition.read_text()
    assert str(repository.parent) not in definition.read_text()
    assert "/tmp" not in definition.read_text()
    assert not list((repository / "mlruns").rglob("*.pkl"))


def test_the_songs_of_each_split_are_logged_as_data_sets_of_the_run(repository):
    (repository / "data.dvc").write_text("outs:\n- md5: 0123456789abcdef0123456789abcdef.dir\n")
    (repository / "params.yaml").write_text("train:\n  exclude: [c]\n")
    parts = {"train": (0, 22050), "test": (22050, 44100)}
    write_prepared(repository, a=parts, b={"test": (0, 44100)}, c=parts)
    index = repository / "prepared" / "songs.json"
    index.write_text(index.read_text().replace('"damage": ""', '"damage": "cut"', 1))
    run_id = ensure_run("train", make_bundle(repository / "models" / "train", 1.0))
    logged = {each.dataset.name: each for each in run_of(run_id).inputs.dataset_inputs}
    assert logged.keys() == {"train", "held-out"}
    assert json.loads(logged["train"].dataset.profile) == {
        "num_songs": 1,
        "seconds": 0.5,
        "songs": ["a"],
        "damage": {"a": "cut"},
    }
    assert logged["train"].dataset.digest != logged["held-out"].dataset.digest
    tags = [(tag.key, tag.value) for tag in logged["held-out"].tags]
    assert tags == [("mlflow.data.context", "held-out")]
    (parent,) = parent_of(run_id).inputs.dataset_inputs
    assert parent.dataset.name == "held-out"
    assert parent_of(run_id).data.params == {"train.exclude": "['c']"}


def test_the_experiment_has_a_description_and_a_saved_view(repository):
    client = tracking_store.connect()
    tags = client.get_experiment(tracking_store.experiment_id(client)).tags
    assert "champion" in tags["mlflow.note.content"]
    view = json.loads(tags["mlflow.sharedViewState.results"])
    assert view["name"] == "Results"
    assert "metrics.`bits_per_sample`" in json.loads(view["state"])["selectedColumns"]

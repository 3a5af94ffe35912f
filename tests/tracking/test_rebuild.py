"""Runs are rebuilt or completed from the outputs of their stages, once."""

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
from songcast.tracking.rebuild import ensure_parent, ensure_run
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


def interrupted(loss, *, run_by="train"):
    """Log one epoch; the end of the run never reaches the store."""
    run = StageRun(run_by)
    run.start({"seed": 1}, {}, None)
    run.log_metrics({"loss": loss}, 0)
    run.finish("KILLED")
    return run.run_id


def test_a_run_that_lost_its_connection_is_completed(repository):
    bundle = make_bundle(repository / "models" / "train", 1.0, HISTORY, params={"seed": 1})
    run_id = interrupted(1.0)
    parent = parent_of(run_id).info.run_id
    assert ensure_run("train", bundle) == run_id
    (logged,) = all_runs()
    assert logged.info.status == "FINISHED"
    assert "songcast.rebuilt" not in logged.data.tags
    assert steps_of(run_id) == [(0, 1.0), (1, 0.5)]
    assert (parent_of(run_id).info.run_id, parent_of(run_id).info.status) == (parent, "FINISHED")


def test_only_a_run_with_the_same_epochs_and_params_is_completed(repository):
    bundle = make_bundle(repository / "models" / "train", 1.0, HISTORY)
    others = {interrupted(0.9), interrupted(1.0, run_by="retrain")}
    with pytest.raises(RuntimeError), stage_run("train", {}) as failed:
        failed.log_bundle(bundle)
        raise RuntimeError
    with stage_run("train", {}) as finished:
        finished.log_metrics({"loss": 1.0}, 0)
    others |= {failed.run_id, finished.run_id, interrupted(1.0)}
    (repository / "params.yaml").write_text("train: {epochs: 2}")
    assert ensure_run("train", bundle) not in others


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
    metrics = {"bits_per_sample": 6.0, "test/a/bits_per_sample": 6.5}
    for _ in range(2):
        log_evaluation(run.run_id, metrics, {"listening/a/pred_song.wav": wav})
    assert steps_of(run.run_id, "test/a/bits_per_sample") == [(0, 6.5)]
    client = tracking_store.connect()
    path = "listening/a/pred_song.wav"
    assert [f.path for f in client.list_artifacts(run.run_id, "listening/a")] == [path]
    log_evaluation(run.run_id, {"bits_per_sample": 5.0}, {})
    assert run_of(run.run_id).data.metrics["bits_per_sample"] == 5.0


def test_the_packaged_model_shows_its_evaluation(repository):
    bundle = make_bundle(repository / "models" / "train", 1.0)
    run_id = ensure_run("train", bundle)
    register_bundle(run_id, bundle, "train", {})
    model_id = run_of(run_id).data.tags["songcast.model_id"]
    log_evaluation(run_id, {"bits_per_sample": 6.0}, {}, "**train** is good")
    assert run_of(run_id).data.tags["mlflow.note.content"] == "**train** is good"
    model = tracking_store.connect().get_logged_model(model_id)
    assert model.source_run_id == run_id
    assert {metric.key: metric.value for metric in model.metrics} == {"bits_per_sample": 6.0}
    assert not list((repository / "mlruns").rglob("*.pkl"))


def test_the_songs_are_logged_as_the_data_set_of_the_run(repository):
    (repository / "data.dvc").write_text("outs:\n- md5: 0123456789abcdef0123456789abcdef.dir\n")
    write_prepared(repository, a={}, b={})
    index = repository / "prepared" / "songs.json"
    index.write_text(index.read_text().replace('"damage": ""', '"damage": "cut"', 1))
    run_id = ensure_run("train", make_bundle(repository / "models" / "train", 1.0))
    (logged,) = run_of(run_id).inputs.dataset_inputs
    digest = "0123456789abcdef0123456789abcdef.dir"
    assert (logged.dataset.name, logged.dataset.digest) == ("songs", digest)
    assert json.loads(logged.dataset.profile) == {
        "num_songs": 2,
        "seconds": 2.0,
        "songs": ["a", "b"],
        "damage": {"a": "cut"},
    }
    assert [(tag.key, tag.value) for tag in logged.tags] == [("mlflow.data.context", "training")]

"""Runs are logged whole, once, beside the database, and never stop a stage."""

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from helpers.mlflow_store import make_bundle, use_repository, weights_of
from helpers.waiting import wait_until
from songcast import cli, registry, tracking
from songcast.errors import BundleError, TrackingError
from songcast.tracking import lineage, outbox
from songcast.tracking import live as tracking_live
from songcast.tracking import send as tracking_send
from songcast.tracking import store as tracking_store


@pytest.fixture
def repository(tmp_path, monkeypatch):
    return use_repository(tmp_path / "here", monkeypatch)


def run_of(run_id):
    return tracking_store.connect().get_run(run_id)


def all_runs(stage=None):
    """Runs of the stages, or of one; those of ``pipeline`` are the parents."""
    client = tracking_store.connect()
    found = client.search_runs([tracking_store.experiment_id(client)])
    stages = {run.info.run_id: run.data.tags["songcast.stage"] for run in found}
    wanted = {stage} if stage else set(stages.values()) - {"pipeline"}
    return [run for run in found if stages[run.info.run_id] in wanted]


def parent_of(run_id):
    return run_of(run_of(run_id).data.tags["mlflow.parentRunId"])


def steps_of(run_id, key):
    history = tracking_store.connect().get_metric_history(run_id, key)
    return sorted((point.step, point.value) for point in history)


def test_a_stage_is_logged_with_params_epochs_tags_files_and_model(repository):
    bundle = make_bundle(repository / "models" / "train", 1.0)
    note = repository / "note.txt"
    note.write_text("hello")
    with tracking.stage_run("train", {"lstm": {"units": 3}, "seed": 1}, {"color": "red"}) as run:
        for epoch in range(3):
            run.log_metrics({"loss": 1.0 / (epoch + 1), "bits": 7.0 - epoch}, epoch)
        run.log_artifact(note, "notes")
        run.log_bundle(bundle)
    logged = run_of(run.run_id)
    assert logged.info.status == "FINISHED"
    assert logged.info.run_name == "train"
    assert logged.data.params == {"lstm.units": "3", "seed": "1"}
    assert steps_of(run.run_id, "bits") == [(0, 7.0), (1, 6.0), (2, 5.0)]
    assert logged.data.tags["color"] == "red"
    assert logged.data.tags["songcast.weights_sha256"] == weights_of(bundle)
    assert "cores" in logged.data.tags["songcast.hardware"]
    client = tracking_store.connect()
    assert [f.path for f in client.list_artifacts(run.run_id, "notes")] == ["notes/note.txt"]
    assert sorted(f.path for f in client.list_artifacts(run.run_id, "bundle")) == [
        f"bundle/{name}" for name in ("arrays.npz", "bundle.json")
    ]
    assert not list((repository / "mlruns").rglob("*.pkl"))


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError("x"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (SystemExit(2), "FAILED")],
)
def test_a_stage_that_breaks_off_is_marked_and_its_error_raised_again(repository, error, status):
    with pytest.raises(type(error)), tracking.stage_run("train", {}) as run:
        run.log_metrics({"loss": 1.0}, 0)
        run.log_metrics({"loss": 0.5}, 1)
        raise error
    assert run_of(run.run_id).info.status == status
    assert steps_of(run.run_id, "loss") == [(0, 1.0), (1, 0.5)]  # nothing buffered is lost


def test_a_resumed_run_goes_on_and_logs_no_step_twice(repository):
    with pytest.raises(RuntimeError), tracking.stage_run("train", {"seed": 1}) as first:
        first.log_metrics({"loss": 1.0}, 0)
        first.log_metrics({"loss": 0.5}, 1)
        raise RuntimeError
    with tracking.stage_run("train", {"seed": 1}, resume_id=first.run_id) as second:
        for epoch, loss in ((1, 0.5), (2, 0.25)):  # the last checkpoint was after epoch 0
            second.log_metrics({"loss": loss}, epoch)
    assert second.run_id == first.run_id
    assert run_of(first.run_id).info.status == "FINISHED"
    assert steps_of(first.run_id, "loss") == [(0, 1.0), (1, 0.5), (2, 0.25)]


def test_resuming_a_run_that_this_store_does_not_know_starts_a_new_one(repository):
    with tracking.stage_run("train", {}, resume_id="0" * 32) as run:
        pass
    assert run.run_id != "0" * 32
    assert run_of(run.run_id).info.status == "FINISHED"


def test_system_metrics_are_logged_and_leave_no_thread_behind(repository, monkeypatch, capfd):
    monkeypatch.setattr(tracking_live, "SYSTEM_METRICS_SECONDS", 0.05)
    before = set(threading.enumerate())
    with tracking.stage_run("train", {}) as run:
        wait_until(
            lambda: any(key.startswith("system/") for key in run_of(run.run_id).data.metrics)
        )
    assert set(threading.enumerate()) <= before
    assert capfd.readouterr().out == ""


def test_a_missing_run_is_rebuilt_once_from_the_outputs_of_its_stage(repository):
    bundle = make_bundle(repository / "models" / "train", 1.0)
    (bundle / "history.csv").write_text("step,loss,val_bits\n0,1.0,\n1,0.5,6.5\n")
    rows = tracking.read_history(bundle / "history.csv")
    files = {"curves/history.csv": bundle / "history.csv", "other-name.csv": bundle / "history.csv"}
    first = tracking.ensure_run("train", bundle, {"seed": 1}, rows, {"why": "test"}, files)
    again = tracking.ensure_run("train", bundle, {"seed": 1}, rows, {"why": "test"}, files)
    assert first == again
    assert len(all_runs()) == 1
    logged = run_of(first)
    assert logged.info.status == "FINISHED"
    assert logged.data.params == {"seed": "1"}
    assert logged.data.tags["songcast.rebuilt"] == "true"
    assert steps_of(first, "loss") == [(0, 1.0), (1, 0.5)]
    assert steps_of(first, "val_bits") == [(1, 6.5)]
    client = tracking_store.connect()
    assert {f.path for f in client.list_artifacts(first)} == {
        *("bundle", "curves", "other-name.csv")
    }


def test_a_run_that_was_logged_live_is_found_and_a_broken_off_one_is_not(repository):
    bundle = make_bundle(repository / "models" / "train", 1.0)
    with pytest.raises(RuntimeError), tracking.stage_run("train", {}) as broken:
        broken.log_bundle(bundle)
        raise RuntimeError
    with tracking.stage_run("train", {}) as live:
        live.log_bundle(bundle)
    assert tracking.ensure_run("train", bundle, {}) == live.run_id
    assert tracking.find_run("train", weights_of(bundle)) == live.run_id
    assert tracking.ensure_run("retrain", bundle, {}) != live.run_id  # another stage, another run
    other = make_bundle(repository / "models" / "other", 2.0)
    assert tracking.find_run("train", weights_of(other)) is None


def test_an_evaluation_is_logged_once_until_it_changes(repository, monkeypatch):
    wav = repository / "pred_song.wav"
    wav.write_bytes(b"RIFF")
    with tracking.stage_run("train", {}) as run:
        pass
    metrics = {"bits_per_sample": 6.0, "test/a/bits_per_sample": 6.5}
    for _ in range(2):
        tracking.log_evaluation(run.run_id, metrics, {"listening/a/pred_song.wav": wav})
    assert steps_of(run.run_id, "test/a/bits_per_sample") == [(0, 6.5)]
    client = tracking_store.connect()
    path = "listening/a/pred_song.wav"
    assert [f.path for f in client.list_artifacts(run.run_id, "listening/a")] == [path]
    tracking.log_evaluation(run.run_id, {"bits_per_sample": 5.0}, {})
    assert run_of(run.run_id).data.metrics["bits_per_sample"] == 5.0


def test_a_moved_repository_keeps_its_artifacts_and_takes_new_ones(
    repository, tmp_path, monkeypatch
):
    mlflow = tracking_store.import_mlflow()
    note = repository / "note.txt"
    note.write_text("before the move")
    with tracking.stage_run("train", {}) as run:
        run.log_artifact(note)
    moved = tmp_path / "there" / "with space"
    moved.parent.mkdir()
    shutil.move(repository, moved)
    use_repository(moved, monkeypatch)
    # Plain MLflow, as `mlflow ui --backend-store-uri sqlite:///mlruns/mlflow.db` opens it.
    for uri in ("sqlite:///mlruns/mlflow.db", f"sqlite:///{moved}/mlruns/mlflow.db"):
        plain = mlflow.MlflowClient(uri)
        assert [f.path for f in plain.list_artifacts(run.run_id)] == ["note.txt"]
        copy = plain.download_artifacts(run.run_id, "note.txt", str(tmp_path))
        assert Path(copy).read_text() == "before the move"
    with tracking.stage_run("train", {}) as later:
        later.log_artifact(moved / "note.txt")
    assert not repository.exists()
    assert list(moved.glob(f"mlruns/artifacts/songcast/{later.run_id}/artifacts/note.txt"))


def test_an_artifact_uri_cannot_leave_the_artifacts_folder(repository):
    mlflow = tracking_store.import_mlflow()
    from songcast.tracking.artifact_store import locate

    database = repository / "mlruns" / "mlflow.db"
    assert locate("songcast:/a/b", database) == repository / "mlruns" / "artifacts" / "a" / "b"
    for uri in ("songcast:/../mlflow.db", "songcast:/a/%2e%2e/%2e%2e/x", "songcast:/a/../../.."):
        with pytest.raises(mlflow.MlflowException, match="outside the artifacts folder"):
            locate(uri, database)


def test_mlflow_tracking_uri_moves_everything(repository, tmp_path, monkeypatch):
    other = tmp_path / "server" / "other.db"
    other.parent.mkdir()
    shutil.copy(repository / "mlruns" / "mlflow.db", other)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{other}")
    bundle = make_bundle(repository / "models" / "train", 1.0)
    run_id = tracking.ensure_run("train", bundle, {})
    assert os.environ["MLFLOW_TRACKING_URI"] == f"sqlite:///{other}"
    assert run_of(run_id).info.status == "FINISHED"
    assert list(other.parent.glob("artifacts/songcast/*/artifacts/bundle/bundle.json"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert all_runs() == []


def test_logging_leaves_mlflows_process_wide_settings_alone(repository):
    mlflow = tracking_store.import_mlflow()
    before = mlflow.get_tracking_uri()
    tracking.ensure_run("train", make_bundle(repository / "models" / "train", 1.0), {})
    assert "MLFLOW_TRACKING_URI" not in os.environ
    assert mlflow.get_tracking_uri() == before


def test_a_dead_server_stops_no_training_and_says_so_once(repository, monkeypatch, capfd):
    use_dead_server(monkeypatch)
    bundle = make_bundle(repository / "models" / "train", 1.0)
    with tracking.stage_run("train", {"seed": 1}) as run:
        run.log_metrics({"loss": 0.5}, 7)
        run.log_bundle(bundle)
    assert run.run_id is None
    said = capfd.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    assert "http://127.0.0.1:9 does not answer" in said.err
    (kept,) = (repository / "mlruns" / "undelivered").iterdir()
    assert '"loss", 0.5, 7' in kept.read_text()
    with pytest.raises(TrackingError, match="does not answer: start it, or unset"):
        tracking.ensure_run("train", bundle, {})


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
    assert f"refuses ({body.partition('.')[0]}): check MLFLOW_TRACKING_USERNAME" in said


def kept_for(run_id, stage="train"):
    """What a stage leaves behind whose server died after it had made the run."""
    kept = outbox.Outbox(outbox.own_path(stage))
    kept.keep({"start": {"seed": "1"}, "tags": {}, "ms": 1000, "run_id": None})
    kept.keep({"metrics": [["loss", 0.5, 1, 1000]], "run_id": run_id})
    kept.keep({"end": "FINISHED", "ms": 2000, "run_id": run_id})
    kept.close()
    return kept.path


@pytest.mark.parametrize("how", ["deleted", "elsewhere"])
def test_what_waits_for_a_run_that_is_not_here_stops_nothing_else(repository, how):
    client = tracking_store.connect()
    here = client.create_run(tracking_store.experiment_id(client)).info.run_id
    there = client.create_run(tracking_store.experiment_id(client)).info.run_id
    if how == "deleted":
        client.delete_run(there)
    else:
        there = "0" * 32
    left, sent = kept_for(there, "retrain"), kept_for(here, "train")
    assert sorted(tracking.deliver_kept()) == [
        f"{left.name}: run {there} is not in this store, left alone",
        f"train: delivered to run {here}",
    ]
    assert (left.exists(), sent.exists()) == (True, False)
    assert steps_of(here, "loss") == [(1, 0.5)]


def test_a_run_whose_server_died_as_it_was_made_gets_its_params_and_no_double(repository):
    client = tracking_store.connect()
    made = client.create_run(tracking_store.experiment_id(client)).info.run_id
    kept_for(made)
    assert tracking.deliver_kept() == [f"train: delivered to run {made}"]
    assert len(client.search_runs([tracking_store.experiment_id(client)])) == 1
    assert run_of(made).data.params == {"seed": "1"}
    assert run_of(made).info.status == "FINISHED"


# --- what a dead server missed ---


def use_dead_server(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def synced(capfd):
    """What `songcast sync` says where all goes well."""
    capfd.readouterr()
    assert cli.main(["sync"]) == 0
    return capfd.readouterr().out


def test_what_a_dead_server_missed_is_delivered_once_by_sync(repository, monkeypatch, capfd):
    bundle, note = make_bundle(repository / "models" / "train", 1.0), repository / "note.txt"
    note.write_text("hello")
    with monkeypatch.context() as dead:
        use_dead_server(dead)
        with tracking.stage_run("train", {"seed": 1}, {"color": "red"}) as run:
            run.log_metrics({"loss": 0.5}, 7)
            run.log_artifact(note, "notes")
            run.log_bundle(bundle)
        assert cli.main(["sync"]) == 2
        assert "does not answer" in capfd.readouterr().err
    assert all_runs() == []
    assert synced(capfd).startswith("train: delivered to run ")
    (logged,) = all_runs()
    run_id = logged.info.run_id
    assert (logged.info.status, logged.data.params) == ("FINISHED", {"seed": "1"})
    assert logged.data.tags["color"] == "red"
    assert steps_of(run_id, "loss") == [(7, 0.5)]
    paths = [file.path for file in tracking_store.connect().list_artifacts(run_id, "notes")]
    assert paths == ["notes/note.txt"]
    assert tracking.find_run("train", weights_of(bundle)) == run_id
    assert parent_of(run_id).info.status == "FINISHED"
    assert synced(capfd) == "nothing waits to be delivered\n"
    assert len(all_runs()) == 1


def test_files_that_are_gone_or_others_by_now_are_told_of_and_passed_over(
    repository, monkeypatch, capfd
):
    bundle, note = make_bundle(repository / "models" / "train", 1.0), repository / "note.txt"
    note.write_text("hello")
    with monkeypatch.context() as dead:
        use_dead_server(dead)
        with tracking.stage_run("train", {}) as run:
            run.log_artifact(note)
            run.log_bundle(bundle)
            run.log_metrics({"loss": 0.5}, 0)
    note.unlink()
    make_bundle(bundle, 2.0)
    said = synced(capfd)
    assert f"({note} is gone; {bundle} holds other weights by now)" in said
    (logged,) = all_runs()
    assert steps_of(logged.info.run_id, "loss") == [(0, 0.5)]
    assert tracking.find_run("train", weights_of(bundle)) is None


def test_what_a_killed_stage_kept_is_delivered_up_to_its_last_whole_line(repository, capfd):
    kept = outbox.Outbox(outbox.own_path("train"))
    kept.keep({"start": {"seed": "1"}, "tags": {"color": "red"}, "ms": 1000, "run_id": None})
    kept.keep({"metrics": [["loss", 0.5, 0, 2000]], "run_id": None})
    assert synced(capfd) == f"{kept.path.name}: still being written, left alone\n"
    assert all_runs() == []
    kept.close()
    with kept.path.open("a") as file:
        file.write('{"metrics": [["loss", 0.25, 1, 30')
    assert synced(capfd).startswith("train: delivered to run ")
    (logged,) = all_runs()
    assert (logged.info.status, logged.info.start_time) == ("KILLED", 1000)
    assert steps_of(logged.info.run_id, "loss") == [(0, 0.5)]
    assert not kept.path.exists()


def test_an_altered_bundle_is_not_logged(repository):
    bundle = make_bundle(repository / "models" / "train", 1.0)
    (bundle / "arrays.npz").write_bytes(b"altered")
    with pytest.raises(BundleError, match="altered"):
        tracking.ensure_run("train", bundle, {})
    assert all_runs() == []


def test_importing_the_tracking_modules_does_not_import_mlflow():
    code = "import sys, songcast.registry, songcast.stages.register; print('mlflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_lineage_tells_commit_dirt_songs_and_environment(tmp_path):
    def git(*words):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *words], check=True)

    assert lineage.git_state(tmp_path).commit is None
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
    state = lineage.git_state(tmp_path)
    assert len(state.commit) == 40
    assert state.dirty is False
    (tmp_path / "params.yaml").write_text("a: 2\n")
    assert lineage.git_state(tmp_path).dirty is True


# --- one parent for each execution ---


def stage(name, repository, weight=1.0):
    """A stage that runs whole; returns its run id."""
    bundle = make_bundle(repository / "models" / name, weight)
    with tracking.stage_run(name, {"seed": 1}) as run:
        assert parent_of(run.run_id).info.status == "RUNNING"
        run.log_bundle(bundle)
    return run.run_id


def test_the_stages_of_one_execution_share_a_parent_that_ends_with_them(repository):
    first, second = stage("train", repository), stage("retrain", repository, 2.0)
    parent = parent_of(first)
    assert parent_of(second).info.run_id == parent.info.run_id
    assert (parent.info.run_name, parent.info.status) == ("pipeline", "FINISHED")
    assert len(all_runs("pipeline")) == 1
    assert tracking.ensure_parent() == parent.info.run_id


def test_a_pipeline_that_was_stopped_and_goes_on_keeps_its_parent(repository):
    with pytest.raises(KeyboardInterrupt), tracking.stage_run("train", {}) as stopped:
        raise KeyboardInterrupt
    assert parent_of(stopped.run_id).info.status == "KILLED"
    with tracking.stage_run("train", {}, resume_id=stopped.run_id) as resumed:
        assert parent_of(resumed.run_id).info.status == "RUNNING"
    with pytest.raises(RuntimeError), tracking.stage_run("retrain", {}) as failed:
        raise RuntimeError
    anew = stage("retrain", repository)
    parents = {parent_of(run_id).info.run_id for run_id in (resumed.run_id, failed.run_id, anew)}
    assert len(parents) == 1
    assert parent_of(anew).info.status == "FINISHED"


@pytest.mark.parametrize("change", ["again", "params", "songs", "experiment"])
def test_another_execution_gets_another_parent(repository, monkeypatch, change):
    first = stage("train", repository)
    if change == "params":
        (repository / "params.yaml").write_text("train: {epochs: 2}")
    if change == "songs":
        (repository / "data.dvc").write_text("outs:\n- md5: 0123abcd.dir\n")
    if change == "experiment":
        monkeypatch.setenv("DVC_EXP_NAME", "brave-tune")
    again, later = stage("train", repository, 2.0), stage("retrain", repository, 3.0)
    assert parent_of(again).info.run_id != parent_of(first).info.run_id
    assert parent_of(later).info.run_id == parent_of(again).info.run_id
    expected = "pipeline brave-tune" if change == "experiment" else "pipeline"
    assert parent_of(again).info.run_name == expected
    assert all(run.info.status == "FINISHED" for run in all_runs() + all_runs("pipeline"))


def test_what_was_killed_without_a_word_is_marked_when_the_next_stage_starts(repository):
    client = tracking_store.connect()
    experiment = tracking_store.experiment_id(client)
    parent = tracking_send.open_parent(client, experiment, "train")
    killed = tracking_send.create_run(client, "train", {}, parent)
    client.update_run(parent, status="RUNNING")
    (repository / "params.yaml").write_text("train: {epochs: 2}")
    stage("train", repository)
    assert {run_of(run_id).info.status for run_id in (killed, parent)} == {"KILLED"}


def test_rebuilt_runs_have_one_parent_too_and_no_run_is_without(repository):
    for name, weight in (("train", 1.0), ("retrain", 2.0)):
        bundle = make_bundle(repository / "models" / name, weight)
        for _ in range(2):
            tracking.ensure_run(name, bundle, {})
    assert len(all_runs()) == 2
    assert len({parent_of(run.info.run_id).info.run_id for run in all_runs()}) == 1


def test_the_songs_are_logged_as_the_runs_data_set(repository):
    (repository / "data.dvc").write_text("outs:\n- md5: 0123456789abcdef0123456789abcdef.dir\n")
    (repository / "prepared").mkdir()
    songs = [{"slug": slug, "frames": 44100, "sample_rate_hz": 44100} for slug in ("a", "b")]
    (repository / "prepared" / "songs.json").write_text(json.dumps({"songs": songs}))
    (logged,) = run_of(stage("train", repository)).inputs.dataset_inputs
    assert (logged.dataset.name, logged.dataset.digest) == (
        "songs",
        "0123456789abcdef0123456789abcdef.dir",
    )
    assert json.loads(logged.dataset.profile) == {
        "num_songs": 2,
        "seconds": 2.0,
        "songs": ["a", "b"],
    }
    assert [(tag.key, tag.value) for tag in logged.tags] == [("mlflow.data.context", "training")]


def test_what_was_measured_stands_on_the_models_page_and_above_the_run(repository):
    run_id = stage("train", repository)
    registry.register_bundle(run_id, repository / "models" / "train", "train", {})
    tracking.log_evaluation(run_id, {"bits_per_sample": 6.0}, {}, "**train** is good")
    logged = run_of(run_id)
    assert logged.data.tags["mlflow.note.content"] == "**train** is good"
    model = tracking_store.connect().get_logged_model(logged.data.tags["songcast.model_id"])
    assert {metric.key: metric.value for metric in model.metrics} == {"bits_per_sample": 6.0}

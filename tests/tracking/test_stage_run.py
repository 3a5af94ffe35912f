"""A stage logs its run while it runs, and an unreachable store never stops it."""

import threading

import pytest

from helpers.mlflow_store import (
    all_runs,
    make_bundle,
    parent_of,
    run_of,
    steps_of,
    use_dead_server,
    use_repository,
    weights_of,
)
from helpers.waiting import wait_until
from songcast.errors import TrackingError
from songcast.tracking import stage_run as tracking_stage_run
from songcast.tracking import store as tracking_store
from songcast.tracking.runs import ensure_run
from songcast.tracking.stage_run import stage_run


@pytest.fixture
def repository(tmp_path, monkeypatch):
    return use_repository(tmp_path / "here", monkeypatch)


def test_a_stage_logs_params_epochs_tags_files_and_weights(repository):
    bundle = make_bundle(repository / "models" / "train", 1.0)
    note = repository / "note.txt"
    note.write_text("hello")
    tags, began = {"color": "red"}, 1_700_000_000_000
    with stage_run("train", {"lstm": {"units": 3}, "seed": 1}, tags, start_ms=began) as run:
        for epoch in range(3):
            run.log_metrics({"loss": 1.0 / (epoch + 1), "bits": 7.0 - epoch}, epoch)
        run.log_artifact(note, "notes")
        run.log_bundle(bundle)
    logged = run_of(run.run_id)
    assert logged.info.status == "FINISHED"
    assert logged.info.run_name == "train"
    assert logged.info.start_time == began
    assert logged.data.params == {"lstm.units": "3", "seed": "1"}
    assert steps_of(run.run_id, "bits") == [(0, 7.0), (1, 6.0), (2, 5.0)]
    assert logged.data.tags["color"] == "red"
    assert logged.data.tags["songcast.weights_sha256"] == weights_of(bundle)
    assert logged.data.tags["songcast.kind"] == "fake"
    assert "cores" in logged.data.tags["songcast.hardware"]
    client = tracking_store.connect()
    assert [file.path for file in client.list_artifacts(run.run_id, "notes")] == ["notes/note.txt"]
    assert [file.path for file in client.list_artifacts(run.run_id, "bundle")] == [
        *("bundle/bundle.json", "bundle/weights.safetensors")
    ]


def test_an_exception_marks_the_run_and_is_raised_again_with_nothing_lost(repository):
    for error, status in (
        (ValueError("x"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (SystemExit(2), "FAILED"),
    ):
        with pytest.raises(type(error)), stage_run("train", {}) as run:
            run.log_metrics({"loss": 1.0}, 0)
            run.log_metrics({"loss": 0.5}, 1)
            raise error
        assert run_of(run.run_id).info.status == status
        assert steps_of(run.run_id) == [(0, 1.0), (1, 0.5)]


def test_a_resumed_run_continues_its_metrics(repository):
    with pytest.raises(RuntimeError), stage_run("train", {"seed": 1}) as first:
        first.log_metrics({"loss": 1.0}, 0)
        first.log_metrics({"loss": 0.5}, 1)
        raise RuntimeError
    with stage_run("train", {"seed": 1}, resume_id=first.run_id) as second:
        second.log_metrics({"loss": 0.25}, 2)
    assert second.run_id == first.run_id
    assert run_of(first.run_id).info.status == "FINISHED"
    assert steps_of(first.run_id) == [(0, 1.0), (1, 0.5), (2, 0.25)]


def test_resuming_a_run_that_this_store_does_not_have_starts_a_new_one(repository):
    with stage_run("train", {}, resume_id="0" * 32) as run:
        pass
    assert run.run_id != "0" * 32
    assert run_of(run.run_id).info.status == "FINISHED"


def test_system_metrics_are_logged_and_leave_no_thread_behind(repository, monkeypatch, capfd):
    monkeypatch.setattr(tracking_stage_run, "SYSTEM_METRICS_SECONDS", 0.05)
    before = set(threading.enumerate())
    with stage_run("train", {}) as run:
        wait_until(
            lambda: any(key.startswith("system/") for key in run_of(run.run_id).data.metrics)
        )
    assert set(threading.enumerate()) <= before
    assert capfd.readouterr().out == ""


def test_a_dead_server_costs_one_line_and_register_logs_the_run(repository, monkeypatch, capfd):
    bundle = make_bundle(repository / "models" / "train", 1.0, "step,loss\n7,0.5\n")
    with monkeypatch.context() as dead:
        use_dead_server(dead)
        with stage_run("train", {"seed": 1}) as run:
            run.log_metrics({"loss": 0.5}, 7)
            run.log_bundle(bundle)
        assert run.run_id is None
        out, err = capfd.readouterr()
        assert out == ""
        (line,) = err.splitlines()
        assert line.startswith("songcast: train continues without MLflow; register logs its run")
        assert "http://127.0.0.1:9 does not answer" in line
        with pytest.raises(TrackingError, match="does not answer: start it, or unset"):
            ensure_run("train", bundle)
    assert all_runs() == []
    run_id = ensure_run("train", bundle)
    assert steps_of(run_id) == [(7, 0.5)]


def test_after_a_request_that_fails_nothing_more_is_sent(repository, monkeypatch, capfd):
    asked = []

    def fail(*arguments):
        asked.append(arguments)
        raise ConnectionError("API request failed")

    history = "step,loss\n0,1.0\n1,0.5\n"
    bundle = make_bundle(repository / "models" / "train", 1.0, history)
    with stage_run("train", {}) as run, monkeypatch.context() as failing:
        failing.setattr(tracking_stage_run, "send_metrics", fail)
        for step in range(4):
            run.log_metrics({"loss": 1.0 / (step + 1)}, step)
        run.log_bundle(bundle)
    assert len(asked) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert "train continues without MLflow" in line
    assert steps_of(run.run_id) == []
    again = ensure_run("train", bundle)
    assert steps_of(again) == [(0, 1.0), (1, 0.5)]
    assert (run_of(again).info.status, run_of(run.run_id).info.status) == ("FINISHED", "KILLED")


# One parent for each execution


def run_stage(name, repository, weight=1.0):
    """Run a stage to its end; return its run id."""
    bundle = make_bundle(repository / "models" / name, weight)
    with stage_run(name, {"seed": 1}) as run:
        assert parent_of(run.run_id).info.status == "RUNNING"
        run.log_bundle(bundle)
    return run.run_id


def test_the_stages_of_one_execution_share_a_parent_that_finishes_with_them(repository):
    first, second = run_stage("train", repository), run_stage("retrain", repository, 2.0)
    parent = parent_of(first)
    assert parent_of(second).info.run_id == parent.info.run_id
    assert (parent.info.run_name, parent.info.status) == ("pipeline", "FINISHED")
    assert len(all_runs("pipeline")) == 1


def test_a_pipeline_that_was_interrupted_and_resumed_keeps_its_parent(repository):
    with pytest.raises(KeyboardInterrupt), stage_run("train", {}) as stopped:
        raise KeyboardInterrupt
    assert parent_of(stopped.run_id).info.status == "KILLED"
    with stage_run("train", {}, resume_id=stopped.run_id) as resumed:
        assert parent_of(resumed.run_id).info.status == "RUNNING"
    with pytest.raises(RuntimeError), stage_run("retrain", {}) as failed:
        raise RuntimeError
    again = run_stage("retrain", repository)
    parents = {parent_of(run_id).info.run_id for run_id in (resumed.run_id, failed.run_id, again)}
    assert len(parents) == 1
    assert parent_of(again).info.status == "FINISHED"


@pytest.mark.parametrize("change", ["again", "params", "songs", "experiment"])
def test_another_execution_gets_another_parent(repository, monkeypatch, change):
    first = run_stage("train", repository)
    if change == "params":
        (repository / "params.yaml").write_text("train: {epochs: 2}")
    if change == "songs":
        (repository / "data.dvc").write_text("outs:\n- md5: 0123abcd.dir\n")
    if change == "experiment":
        monkeypatch.setenv("DVC_EXP_NAME", "brave-tune")
    again, later = run_stage("train", repository, 2.0), run_stage("retrain", repository, 3.0)
    assert parent_of(again).info.run_id != parent_of(first).info.run_id
    assert parent_of(later).info.run_id == parent_of(again).info.run_id
    expected = "pipeline brave-tune" if change == "experiment" else "pipeline"
    assert parent_of(again).info.run_name == expected
    assert all(run.info.status == "FINISHED" for run in all_runs() + all_runs("pipeline"))

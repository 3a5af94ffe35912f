"""A store that is unreachable does not stop a training; register logs its run again."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import closing

import pytest

from helpers.mlflow_store import (
    all_runs,
    evaluation_of,
    exit_code,
    make_bundle,
    numbers,
    parent_of,
    steps_of,
    use_dead_server,
    use_repository,
    weights_of,
    write_evaluation,
)
from songcast.errors import TrackingError
from songcast.registry.versions import list_versions
from songcast.stages import register
from songcast.tracking import store as tracking_store
from songcast.tracking.runs import ensure_parent, ensure_run
from songcast.tracking.stage_run import StageRun, stage_run

REQUEST_SECONDS = 10


class Server:
    """`mlflow server` on a store in ``folder``, to be started and stopped at will."""

    def __init__(self, folder):
        self.folder = folder
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self):
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.folder}/mlruns/mlflow.db"]
        command += ["--artifacts-destination", str(self.folder / "served")]
        environment = {**os.environ, **tracking_store.ENVIRONMENT}
        self.process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.2)
        raise TimeoutError("mlflow server did not start")

    def signal(self, number):
        os.killpg(self.process.pid, number)
        if number == signal.SIGKILL:
            self.process.wait()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    return use_repository(tmp_path / "here", monkeypatch)


@pytest.fixture
def server(repository, monkeypatch, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        server = Server(use_repository(tmp_path / "server", patch))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    server.start()
    yield server
    server.signal(signal.SIGKILL)


def history(*losses):
    rows = [f"{step},{loss}" for step, loss in enumerate(losses)]
    return "\n".join(["step,loss", *rows, ""])


def write_outputs(repository):
    """The outputs of all stages before register."""
    make_bundle(repository / "models" / "train", 1.0, history(1.0, 0.5, 0.25))
    make_bundle(repository / "models" / "retrain", 2.0, history(0.2))
    measured = {"ridge": numbers(7.0), "train": numbers(6.5), "retrain": numbers(6.0)}
    write_evaluation(repository, evaluation_of(**measured))


def test_a_server_that_dies_in_mid_training_gets_the_complete_run_from_register(
    repository, server, capsys
):
    write_outputs(repository)
    with stage_run("train", {"seed": 1}) as run:
        run.log_metrics({"loss": 1.0}, 0)
        server.signal(signal.SIGKILL)
        for step, loss in ((1, 0.5), (2, 0.25)):
            run.log_metrics({"loss": loss}, step)
        run.log_bundle(repository / "models" / "train")
    (line,) = capsys.readouterr().err.splitlines()
    assert "train continues without MLflow" in line
    assert f"{server.uri} does not answer" in line
    server.start()
    for _ in range(2):
        content = register.register(repository)
        assert content["versions"] == {"train": 1, "retrain": 2}
    logged, lost = sorted(all_runs("train"), key=lambda each: each.info.status)
    assert (logged.info.status, lost.info.run_id, lost.info.status) == (
        *("FINISHED", run.run_id, "KILLED"),
    )
    assert steps_of(logged.info.run_id) == [(0, 1.0), (1, 0.5), (2, 0.25)]
    assert logged.data.tags["songcast.weights_sha256"] == weights_of(
        repository / "models" / "train"
    )
    assert logged.data.metrics["bits_per_sample"] == 6.5
    assert parent_of(run.run_id).info.status == "FINISHED"
    assert len(list_versions()) == 2


def test_a_server_that_hangs_delays_a_training_by_one_request(repository, server, monkeypatch):
    bundle = make_bundle(repository / "models" / "train", 1.0, history(1.0, 0.5, 0.25, 0.125))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", str(REQUEST_SECONDS))
    with stage_run("train", {}) as run:
        run.log_metrics({"loss": 1.0}, 0)
        server.signal(signal.SIGSTOP)
        began = time.monotonic()
        for step, loss in ((1, 0.5), (2, 0.25), (3, 0.125)):
            run.log_metrics({"loss": loss}, step)
        run.log_bundle(bundle)
        assert time.monotonic() - began < 2 * REQUEST_SECONDS
    server.signal(signal.SIGCONT)
    again = ensure_run("train", bundle)
    assert [step for step, _ in steps_of(again)] == [0, 1, 2, 3]
    assert sorted(each.info.status for each in all_runs("train")) == ["FINISHED", "KILLED"]


def test_registering_with_a_dead_server_is_one_line(repository, own_process, monkeypatch, capsys):
    use_dead_server(monkeypatch)
    write_outputs(repository)
    assert exit_code(register.main) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("songcast register: the tracking server at http://127.0.0.1:9 does not")
    assert not (repository / "registered.json").exists()


def test_a_server_that_dies_while_a_model_is_packaged_gets_no_second_version(
    repository, server, own_process, monkeypatch, capsys
):
    write_outputs(repository)
    create = register.register_bundle

    def die(*arguments, **keywords):
        server.signal(signal.SIGKILL)
        return create(*arguments, **keywords)

    with monkeypatch.context() as dying:
        dying.setattr(register, "register_bundle", die)
        assert exit_code(register.main) == 2
    assert "does not answer" in capsys.readouterr().err.splitlines()[-1]
    assert not (repository / "registered.json").exists()
    server.start()
    for _ in range(2):
        assert register.register(repository)["versions"] == {"train": 1, "retrain": 2}
    assert len(list_versions()) == len(all_runs()) == 2


def test_a_stage_that_is_killed_without_a_server_leaves_nothing_behind(repository, monkeypatch):
    with monkeypatch.context() as dead:
        use_dead_server(dead)
        run = StageRun("train")
        run.start({"seed": 1}, {}, None)
        run.log_metrics({"loss": 1.0}, 0)
    bundle = make_bundle(repository / "models" / "train", 1.0, history(1.0))
    with stage_run("train", {"seed": 1}) as again:
        again.log_metrics({"loss": 1.0}, 0)
        again.log_bundle(bundle)
    assert ensure_run("train", bundle) == again.run_id
    assert [logged.info.run_id for logged in all_runs()] == [again.run_id]
    assert {path.name for path in (repository / "mlruns").iterdir()} <= {
        ".lock",
        "artifacts",
        "mlflow.db",
    }


def test_a_locked_database_is_one_line_and_gets_all_records_from_register(repository, capsys):
    bundle = make_bundle(repository / "models" / "train", 1.0, history(1.0, 0.5))
    with stage_run("train", {}) as run:
        with closing(sqlite3.connect(repository / "mlruns" / "mlflow.db")) as other:
            other.execute("BEGIN EXCLUSIVE")
            run.log_metrics({"loss": 1.0}, 0)
            with pytest.raises(TrackingError, match="database is locked"):
                ensure_parent()
        run.log_metrics({"loss": 0.5}, 1)
        run.log_bundle(bundle)
    (line,) = capsys.readouterr().err.splitlines()
    assert "train continues without MLflow" in line
    assert steps_of(ensure_run("train", bundle)) == [(0, 1.0), (1, 0.5)]
    assert sorted(each.info.status for each in all_runs("train")) == ["FINISHED", "KILLED"]


def test_a_clock_that_runs_backwards_loses_no_epoch(repository, monkeypatch):
    ticks = iter(range(10**9, 0, -1000))
    lock = threading.Lock()

    def backwards():
        with lock:
            return next(ticks) * 10**9

    monkeypatch.setattr(time, "time_ns", backwards)
    monkeypatch.setattr(time, "time", lambda: backwards() / 1e9)
    with stage_run("train", {}) as run:
        for step in range(3):
            run.log_metrics({"loss": 1.0 / (step + 1)}, step)
    monkeypatch.undo()
    use_repository(repository, monkeypatch)
    assert [step for step, _ in steps_of(run.run_id)] == [0, 1, 2]
    assert [logged.info.status for logged in all_runs("train")] == ["FINISHED"]

"""A store that is away stops no training and slows none; what it missed it gets later."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import closing, contextmanager

import pytest

from helpers.mlflow_store import exit_code, make_bundle, use_repository, weights_of
from songcast import cli, tracking
from songcast.errors import TrackingError
from songcast.stages import register
from songcast.tracking import live, outbox
from songcast.tracking import store as tracking_store

# Longer than any of our own work here, shorter than waiting for a hanging server.
AT_ONCE_SECONDS, HANGING_SECONDS = 5.0, 20


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
    monkeypatch.setattr(live, "FLUSH_SECONDS", 0.0)
    return use_repository(tmp_path / "here", monkeypatch)


@pytest.fixture
def server(repository, monkeypatch, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        found = Server(use_repository(tmp_path / "server", patch))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", found.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    found.start()
    yield found
    found.signal(signal.SIGKILL)


@contextmanager
def at_once():
    began = time.monotonic()
    yield
    assert time.monotonic() - began < AT_ONCE_SECONDS


def waiting(repository):
    return sorted((repository / "mlruns").glob("undelivered/*"))


def steps_of(run_id, key="loss"):
    history = tracking_store.connect().get_metric_history(run_id, key)
    return sorted((point.step, point.value) for point in history)


def runs(stage):
    client = tracking_store.connect()
    found = client.search_runs([tracking_store.experiment_id(client)])
    return [run for run in found if run.data.tags["songcast.stage"] == stage]


def test_what_a_server_missed_that_died_in_mid_training_is_delivered_by_sync(
    repository, server, capsys
):
    bundle = make_bundle(repository / "models" / "train", 1.0)
    with tracking.stage_run("train", {"seed": 1}) as run:
        run.log_metrics({"loss": 1.0}, 0)
        run._sending.result()
        server.signal(signal.SIGKILL)
        for step, loss in ((1, 0.5), (2, 0.25)):
            with at_once():
                run.log_metrics({"loss": loss}, step)
        run.log_bundle(bundle)
    assert capsys.readouterr().err.count("goes on without MLflow") == 1
    (kept,) = waiting(repository)
    assert cli.main(["sync"]) == 2
    assert "does not answer" in capsys.readouterr().err
    assert waiting(repository) == [kept]
    server.start()
    assert cli.main(["sync"]) == 0
    assert capsys.readouterr().out == f"train: delivered to run {run.run_id}\n"
    assert waiting(repository) == []
    assert steps_of(run.run_id) == [(0, 1.0), (1, 0.5), (2, 0.25)]
    (logged,) = runs("train")
    assert logged.info.status == "FINISHED"
    assert logged.data.tags["songcast.weights_sha256"] == weights_of(bundle)
    assert runs("pipeline")[0].info.status == "FINISHED"
    # Nothing is built again that was delivered, and there is nothing more to deliver.
    assert tracking.ensure_run("train", bundle, {}) == run.run_id
    assert cli.main(["sync"]) == 0
    assert capsys.readouterr().out == "nothing waits to be delivered\n"


def test_a_server_that_hangs_slows_no_training_and_gets_all_when_it_wakes(
    repository, server, monkeypatch
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", str(HANGING_SECONDS))
    monkeypatch.setattr(live, "RETRY_SECONDS", 0.0)
    with tracking.stage_run("train", {}) as run:
        run.log_metrics({"loss": 1.0}, 0)
        run._sending.result()
        server.signal(signal.SIGSTOP)
        for step in range(1, 4):
            with at_once():
                run.log_metrics({"loss": 1.0 / (step + 1)}, step)
        server.signal(signal.SIGCONT)
    tracking.deliver_kept()  # what the server was too slow for, if any
    assert waiting(repository) == []
    assert [step for step, _ in steps_of(run.run_id)] == [0, 1, 2, 3]
    assert [found.info.status for found in runs("train")] == ["FINISHED"]


def test_a_server_that_comes_while_a_stage_trains_hears_it_from_the_beginning(
    repository, server, monkeypatch, capsys
):
    monkeypatch.setattr(live, "RETRY_SECONDS", 0.0)
    server.signal(signal.SIGKILL)
    bundle = make_bundle(repository / "models" / "train", 1.0)
    with tracking.stage_run("train", {"seed": 1}, {"color": "red"}) as run:
        assert run.run_id is None
        run.log_metrics({"loss": 1.0}, 0)
        run._sending.result()
        server.start()
        run.log_metrics({"loss": 0.5}, 1)
        run.log_bundle(bundle)
    assert "MLflow answers again" in capsys.readouterr().err
    assert waiting(repository) == []
    (logged,) = runs("train")
    assert (logged.info.run_id, logged.info.status) == (run.run_id, "FINISHED")
    assert logged.data.params == {"seed": "1"}
    assert logged.data.tags["color"] == "red"
    assert steps_of(run.run_id) == [(0, 1.0), (1, 0.5)]


def test_registering_with_a_dead_server_is_one_line(repository, own_process, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    entry = {"prediction_gain_db": 40.0, "bits_per_sample": 6.0, "lag_samples": 0}
    names = ("train", "retrain", "ridge")
    table = dict.fromkeys(names, entry)
    for kind in names[:2]:
        make_bundle(repository / "models" / kind, 1.0)
    (repository / "metrics").mkdir()
    evaluation = {"summary": table, "songs": {"a": table}}
    (repository / "metrics" / "evaluation.json").write_text(json.dumps(evaluation))
    assert exit_code(register.main) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("songcast register: the tracking server at http://127.0.0.1:9 does not")
    assert not (repository / "registered.json").exists()


def test_of_a_stage_that_was_killed_while_its_server_was_away_the_run_is_marked(
    repository, monkeypatch, capsys
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run = live.StageRun("train")
    run._hand_over({"start": {"seed": "1"}, "tags": {}, "ms": 1000}).result()
    run.log_metrics({"loss": 1.0}, 0)
    run._sending.result()
    assert cli.main(["sync"]) == 0
    assert "still being written, left alone" in capsys.readouterr().out
    run._outbox.close()  # as the system does for a process that was killed
    with waiting(repository)[0].open("a") as half:
        half.write('{"metrics": [["lo')
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert cli.main(["sync"]) == 0
    (logged,) = runs("train")
    assert (logged.info.status, logged.info.start_time) == ("KILLED", 1000)
    assert logged.data.params == {"seed": "1"}
    assert steps_of(logged.info.run_id) == [(0, 1.0)]
    assert waiting(repository) == []


def test_a_bundle_that_is_another_by_now_is_passed_over(repository, capsys):
    bundle = make_bundle(repository / "models" / "train", 1.0)
    kept = outbox.Outbox(outbox.own_path("train"))
    said = {"bundle": str(bundle), "stage": "train", "weights_sha256": weights_of(bundle)}
    for record in (
        {"start": {}, "tags": {}, "ms": 1},
        {"artifact": str(repository / "gone.txt"), "folder": None},
        said,
        {"end": "FINISHED", "ms": 2},
    ):
        kept.keep(record)
    kept.close()
    make_bundle(bundle, 2.0)
    assert cli.main(["sync"]) == 0
    out = capsys.readouterr().out
    assert "gone.txt is gone" in out
    assert "holds other weights by now" in out
    (logged,) = runs("train")
    assert logged.info.status == "FINISHED"
    assert "songcast.model_id" not in logged.data.tags


def test_what_a_locked_database_missed_is_delivered_when_it_is_free(
    repository, monkeypatch, capsys
):
    monkeypatch.setattr(live, "RETRY_SECONDS", 0.0)
    with tracking.stage_run("train", {}) as run:
        other = sqlite3.connect(repository / "mlruns" / "mlflow.db")
        with closing(other):
            other.execute("BEGIN EXCLUSIVE")
            with at_once():
                run.log_metrics({"loss": 1.0}, 0)
            run._sending.result()
            with pytest.raises(TrackingError, match="database is locked"):
                tracking.ensure_parent()
        with at_once():
            run.log_metrics({"loss": 0.5}, 1)
    assert "train goes on without MLflow" in capsys.readouterr().err
    assert steps_of(run.run_id) == [(0, 1.0), (1, 0.5)]
    assert [found.info.status for found in runs("train")] == ["FINISHED"]


def test_a_clock_that_goes_backwards_loses_no_epoch(repository, monkeypatch):
    ticks = iter(range(10**9, 0, -1000))
    lock = threading.Lock()

    def backwards():
        with lock:
            return next(ticks) * 10**9

    monkeypatch.setattr(time, "time_ns", backwards)
    monkeypatch.setattr(time, "time", lambda: backwards() / 1e9)
    with tracking.stage_run("train", {}) as run:
        for step in range(3):
            run.log_metrics({"loss": 1.0 / (step + 1)}, step)
    monkeypatch.undo()
    use_repository(repository, monkeypatch)
    assert [step for step, _ in steps_of(run.run_id)] == [0, 1, 2]
    assert [found.info.status for found in runs("train")] == ["FINISHED"]

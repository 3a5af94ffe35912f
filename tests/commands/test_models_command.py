"""`songcast models`, `summary` and `ui`: their output, and one line for every error."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from helpers.champions import use_champion
from songcast import cli
from songcast.commands import models, ui
from songcast.registry import versions

FAKE_SERVER = """
import signal, socket, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
with socket.socket() as s:
    s.bind(("127.0.0.1", int(sys.argv[1]))); s.listen(); time.sleep(600)
"""


def free_port():
    with socket.socket() as probe:
        probe.bind((ui.HOST, 0))
        return probe.getsockname()[1]


def test_models_lists_versions(monkeypatch, capfd):
    numbers = {"summary": {"bits_per_sample": 6.25, "prediction_gain_db": 40.125}}
    use_champion(monkeypatch, numbers)
    assert cli.main(["models"]) == 0
    _, row = capfd.readouterr().out.splitlines()
    assert row.split()[:5] == ["3", "train", "champion", "6.2500", "40.12"]
    assert cli.main(["models", "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == {
        "versions": [
            {
                "version": 3,
                "kind": "train",
                "aliases": ["champion"],
                "bits_per_sample": 6.25,
                "prediction_gain_db": 40.125,
                "created": "1970-01-01T00:00:00+00:00",
                "weights_sha256": "ab",
                "run_id": "r1",
            }
        ]
    }


def test_an_empty_registry_lists_no_models_and_is_not_created(capfd):
    assert cli.main(["models"]) == 0
    assert capfd.readouterr().out == models.EMPTY + "\n"
    assert cli.main(["models", "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == {"versions": []}
    assert not Path("mlruns").exists()


def write_results(gate=None, champion=3, **summary):
    Path("metrics").mkdir(exist_ok=True)
    Path("metrics/evaluation.json").write_text(json.dumps({"summary": summary, "songs": {"a": {}}}))
    document = {
        "name": "songcast",
        "versions": {"train": 3, "retrain": 4},
        "challenger": 4,
        "champion": champion,
        "gate": gate or {"passed": True, "reasons": []},
    }
    Path("registered.json").write_text(json.dumps(document))


def registry_of(monkeypatch, **aliases):
    """Let the registry hold versions 3 and 4."""
    monkeypatch.setattr(versions, "read_registry", lambda: ([3, 4], aliases))


def test_summary_marks_the_best_and_names_the_champion(capfd, monkeypatch):
    registry_of(monkeypatch, champion=3, challenger=4)
    write_results(
        ridge={"prediction_gain_db": 41.0, "bits_per_sample": 7.0, "lag_samples": 0},
        train={"prediction_gain_db": 40.0, "bits_per_sample": 6.5, "lag_samples": 0},
        notebook={"prediction_gain_db": None, "bits_per_sample": 9.0},
    )
    assert cli.main(["summary"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split() for line in lines[2:5]] == [
        ["ridge", "*", "41.00", "7.0000", "0"],
        ["train", "40.00", "*", "6.5000", "0"],
        ["notebook", "-", "9.0000", "-"],
    ]
    assert "champion: version 3 (train); challenger: version 4 (retrain)" in lines
    for place in ("make ui", "listening/", "metrics/evaluation.json"):
        assert any(line.startswith(place) for line in lines)


def test_summary_gives_the_reasons_of_a_closed_gate(capfd, monkeypatch):
    registry_of(monkeypatch, challenger=4)
    gate = {"passed": False, "reasons": ["lag_samples is 1: must be 0", "not better than ridge"]}
    write_results(gate, None, train={"prediction_gain_db": 1.0, "bits_per_sample": 2.0})
    assert cli.main(["summary"]) == 0
    assert (
        "champion: none; challenger: version 4 (retrain); "
        "the gate is closed: lag_samples is 1: must be 0; not better than ridge\n"
    ) in capfd.readouterr().out


def test_summary_believes_the_registry_and_not_registered_json(capfd, monkeypatch):
    write_results(train={"prediction_gain_db": 1.0, "bits_per_sample": 2.0})
    assert cli.main(["summary"]) == 0
    assert "Nothing is registered: run" in capfd.readouterr().out
    assert not Path("mlruns").exists()
    registry_of(monkeypatch, champion=4, challenger=4)
    Path("registered.json").write_text("[]")
    assert cli.main(["summary"]) == 0
    assert "champion: version 4; challenger: version 4\n" in capfd.readouterr().out


def test_summary_without_results_is_one_line(rejection):
    assert "evaluation.json: missing" in rejection("summary")
    write_results()
    assert "not an evaluation" in rejection("summary")


def test_a_port_in_use_and_an_invalid_port_are_one_line(rejection):
    with socket.socket() as taken:
        taken.bind((ui.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"port {port} cannot be used" in rejection("ui", "--port", str(port))
    assert "is not a port: use a number" in rejection("ui", "--port", "0")


def test_an_invalid_host_is_one_line(rejection):
    for host in ("no..host", "x" * 300, "nobody.invalid"):
        assert f"{host}: not an address to listen on" in rejection("serve", "--host", host)


def test_ui_prints_its_url_when_ready_and_ctrl_c_stops_it_quietly(monkeypatch, capfd):
    port = free_port()
    command = [sys.executable, "-c", FAKE_SERVER, str(port)]
    monkeypatch.setattr(
        "songcast.tracking.store.ui_command", lambda _: (command, dict(os.environ), "URL")
    )
    wait = subprocess.Popen.wait

    def interrupted_once(self, timeout=None):
        if timeout is None:
            raise KeyboardInterrupt
        return wait(self, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", interrupted_once)
    assert cli.main(["ui", "--port", str(port)]) == 0
    assert capfd.readouterr() == ("MLflow UI: URL  (Ctrl-C to stop)\n", "")
    assert not ui.answers(port)


def test_a_ui_that_does_not_start_prints_the_last_line_of_its_server(monkeypatch, rejection):
    command = [sys.executable, "-c", "raise SystemExit('no disk')"]
    monkeypatch.setattr(
        "songcast.tracking.store.ui_command", lambda _: (command, dict(os.environ), "URL")
    )
    line = rejection("ui", "--port", str(free_port()))
    assert line == "songcast ui: the MLflow UI did not start: no disk\n"

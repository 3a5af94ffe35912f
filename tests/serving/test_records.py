"""Records of served songs: complete, bounded, and never in the way of a request."""

import json
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import generate_latest

from helpers.records import assert_sealed
from helpers.serving_models import Echo, FixedModel, app_of, running
from helpers.waiting import wait_until
from songcast.registry import live
from songcast.registry.live import Record, add_record, measured_shift, open_records, read_records
from songcast.serving import records as recording
from songcast.serving.telemetry import Telemetry

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "monitor.md"
RAW = {"samples": [[0, 1], [4, 6]], "sample_rate_hz": 22050}


def record(**changes):
    values = {
        "time": 1.0,
        "model": "echo",
        "shadow": 0,
        "song": "a",
        "seconds": 2.0,
        "sample_rate_hz": 44100,
        "channels": 2,
        "bits_per_sample": 6.0,
        "prediction_gain_db": 30.0,
        "work_seconds": 0.5,
    }
    return Record(**{**values, **changes})


def invoke(client, *songs, task="score"):
    body = {"inputs": [json.dumps(song) for song in songs], "params": {"task": task}}
    return client.post("/invocations", json=body)


def metrics(client):
    lines = [m.rsplit(" ", 1) for m in client.get("/metrics").text.splitlines() if m[0] != "#"]
    return {name: float(value) for name, value in lines}


def test_each_answered_song_is_recorded_without_its_audio(tmp_path, chord):
    path, before = tmp_path / "served" / "records.db", time.time()
    with running(app_of(Echo(), records=path)) as client:
        (row,) = invoke(client, RAW).json()["predictions"]
        assert invoke(client, {"samples": [[1, 1]], "sample_rate_hz": 8000}, RAW).status_code == 200
        assert invoke(client, {"samples": []}).status_code == 422
        chord = {"samples": chord.samples.tolist(), "sample_rate_hz": 44100}
        assert invoke(client, chord, task="continue").status_code == 200
        shown = metrics(client)
    first, second, third = read_records(path, "echo")
    assert first.bits_per_sample == row["bits_per_sample"]
    assert first.prediction_gain_db == np.mean(row["prediction_gain_db"])
    assert (first.sample_rate_hz, first.channels, first.seconds) == (22050, 2, 2 / 22050)
    assert 0 < first.work_seconds <= time.time() - before
    assert before <= first.time <= time.time()
    assert first.song == third.song != second.song
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM songs").fetchone() == (4,)
    assert shown['songcast_answered_bits_per_sample_count{version="echo"}'] == 3
    assert shown['songcast_answered_work_seconds_count{version="echo"}'] == 4
    assert shown["songcast_records_lost_total"] == 0
    assert_sealed(first)


def test_the_number_of_records_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(live, "MOST_RECORDS", 10)
    with closing(open_records(tmp_path / "records.db")) as connection:
        for number in range(25):
            add_record(connection, record(time=float(number)))
    kept = read_records(tmp_path / "records.db", "echo")
    assert [r.time for r in kept] == list(range(15, 25))


def test_no_request_is_lost_or_waits_while_the_store_is_locked(tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "WAIT_SECONDS", 0.1)
    monkeypatch.setattr(recording, "MOST_WAITING", 20)
    path = tmp_path / "records.db"
    with (
        closing(open_records(path)) as other,
        running(app_of(Echo(), records=path)) as client,
    ):
        other.execute("BEGIN IMMEDIATE")
        start = time.monotonic()
        assert [invoke(client, RAW).status_code for _ in range(30)] == [200] * 30
        assert time.monotonic() - start < 20
        lost = metrics(client)["songcast_records_lost_total"]
        assert 9 <= lost <= 10  # one may be in the hands of the thread
        other.rollback()
        wait_until(lambda: len(read_records(path, "echo")) == 30 - lost)
        other.execute("BEGIN IMMEDIATE")
        invoke(client, RAW)
    assert len(read_records(path, "echo")) == 30 - lost  # the server stops although it is locked


@pytest.mark.parametrize("fault", ["full", "damaged", "a folder"])
def test_a_store_that_is_full_or_damaged_loses_records_without_an_error(
    tmp_path, monkeypatch, fault
):
    path = tmp_path / "records.db"
    if fault == "full":
        monkeypatch.setattr(live, "SETTINGS", (*live.SETTINGS, "PRAGMA max_page_count=3"))
    elif fault == "damaged":
        path.write_bytes(b"not a database" * 1000)
    else:
        path.mkdir()
    lost = []
    recorder = recording.Recorder(path, lost.append)
    for number in range(200):
        recorder.put(record(time=float(number)))
    wait_until(lambda: len(lost) >= 60)
    recorder.stop()
    if fault == "full":
        assert len(read_records(path, "echo")) == 200 - len(lost) > 0
    else:
        assert len(lost) == 200


WRITER = """
import sys, time
from dataclasses import replace
from pathlib import Path
from songcast.registry.live import Record
from songcast.serving.records import Recorder
recorder, record = Recorder(Path(sys.argv[1]), print), Record(**eval(sys.argv[2]))
for number in range(100000):
    recorder.put(replace(record, time=float(number)))
    print(number, flush=True)
    time.sleep(0.01)
"""


def test_a_killed_server_loses_at_most_the_last_record(tmp_path):
    path = tmp_path / "records.db"
    command = [sys.executable, "-c", WRITER, str(path), repr(asdict(record()))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line == "50\n":
            process.send_signal(signal.SIGKILL)
            break
    last = int((process.stdout.read().split() or [50])[-1])
    process.wait()
    process.stdout.close()
    assert [r.time for r in read_records(path, "echo")][:last] == list(range(last))


def test_a_shift_agrees_with_counting_pairs_and_with_permutations():
    rng = np.random.default_rng(0)
    x, y = rng.normal(6.4, 1, 60), rng.normal(6, 1, 40)
    shift = measured_shift(x.tolist(), y.tolist())
    pairs = [a - b for a in x for b in y]
    assert shift.shift == pytest.approx(np.median(pairs))
    assert shift.effect == pytest.approx(np.mean(np.sign(pairs)))
    both = np.concatenate([x, y])
    ranks = both.argsort().argsort()
    sums = [rng.permutation(ranks)[:60].sum() for _ in range(4_000)]
    extreme = np.abs(np.array(sums) - np.mean(ranks) * 60) >= abs(ranks[:60].sum() - 60 * 49.5)
    assert shift.p == pytest.approx(extreme.mean(), abs=0.02)
    assert measured_shift([1.0] * 5, [1.0] * 5).p == 1.0
    assert np.isnan(measured_shift([], [1.0]).p)
    assert_sealed(shift)


def test_the_alert_rules_of_the_documentation_use_metrics_that_exist():
    champion = FixedModel(Echo())
    telemetry = Telemetry(champion)
    telemetry.song_answered(record())
    telemetry.responded("/ping", 200, 0.1)
    text = generate_latest(telemetry.registry).decode()
    exported = {re.split(r"[{ ]", line)[0] for line in text.splitlines() if line[0] != "#"}
    named = set(re.findall(r"\bsongcast_\w+", "".join(monitoring_files().values())))
    assert len(named) >= 7
    assert named - exported == set()
    families = set(re.findall(r"^# TYPE (songcast_\w+)", text, re.M))
    table = set(re.findall(r"`(songcast_\w+)`", PAGE.read_text()))
    assert table == {f for f in families if not f.endswith(("_created", "song_seconds_total"))}


@pytest.mark.slow
def test_prometheus_accepts_the_configuration_of_the_documentation(tmp_path):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("needs promtool, from the Debian package prometheus")
    for name, text in {**monitoring_files(), "alert.yml": ALERT}.items():
        (tmp_path / name).write_text(text)
    for command in ("check config prometheus.yml", "check rules songcast.rules.yml"):
        subprocess.run([promtool, *command.split()], cwd=tmp_path, check=True)
    done = subprocess.run([promtool, "test", "rules", "alert.yml"], cwd=tmp_path, text=True)
    assert done.returncode == 0


def monitoring_files():
    """The YAML files of the how-to page: name to content."""
    blocks = re.findall(r"^```yaml\n# (\S+)\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    return dict(blocks)


# 6 bits per sample are expected; after an hour, songs need 8.
ALERT = """
rule_files: [songcast.rules.yml]
tests:
  - interval: 5m
    input_series:
      - {series: songcast_expected_bits_per_sample, values: 6x400}
      - {series: 'songcast_answered_bits_per_sample_sum{version="3"}', values: 0+60x100 6040+80x300}
      - {series: 'songcast_answered_bits_per_sample_count{version="3"}', values: 0+10x400}
      - {series: songcast_records_lost_total, values: 0x300 5x100}
    alert_rule_test:
      - {eval_time: 8h, alertname: SongcastBitsDiffer, exp_alerts: []}
      - eval_time: 24h
        alertname: SongcastBitsDiffer
        exp_alerts:
          - exp_annotations:
              summary: Served songs differ from the evaluated ones; run `songcast monitor`.
      - {eval_time: 24h, alertname: SongcastRecordsLost, exp_alerts: []}
      - eval_time: 25h30m
        alertname: SongcastRecordsLost
        exp_alerts:
          - exp_annotations:
              summary: Served songs are not recorded; the log of the server shows the reason.
"""

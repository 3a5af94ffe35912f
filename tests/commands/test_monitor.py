"""`songcast monitor`: verdicts about songs that a server really served."""

import json
from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest

from helpers.mlflow_store import all_runs, numbers, steps_of, use_repository
from helpers.serving_models import FixedModel, running
from songcast import cli
from songcast.commands import monitor
from songcast.forecasting.baselines import Persistence
from songcast.registry.live import (
    is_drift,
    measured_shift,
    open_records,
    read_records,
    records_path,
)
from songcast.registry.versions import MEASURED, ensure_model
from songcast.serving.app import create_app
from songcast.serving.champion import ServedModel
from songcast.serving.jobs import Limits
from songcast.tracking import store as tracking_store

URI = "models:/songcast/1"


def songs(seed, step, count=40):
    """Random walks of 200 frames whose steps are about ``step`` LSB, as raw samples."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        walk = np.cumsum(rng.normal(0, step * rng.uniform(0.8, 1.25), 200)).astype(int)
        yield {"samples": walk.clip(-32768, 32767).tolist(), "sample_rate_hz": 44100}


def serve(*batches):
    """Serve the songs of each batch by HTTP; return the median bits of each."""
    champion = FixedModel(Persistence())
    champion.current = ServedModel(
        model=Persistence(), uri=URI, pinned_uri=URI, frames_per_second=1e5
    )
    medians = []
    with running(create_app(champion, Limits(), records=records_path())) as client:
        for batch in batches:
            texts, bits = [json.dumps(song) for song in batch], []
            for start in range(0, len(texts), 10):
                body = {"inputs": texts[start : start + 10], "params": {"task": "score"}}
                rows = client.post("/invocations", json=body).json()["predictions"]
                bits += [row["bits_per_sample"] for row in rows]
            medians.append(np.median(bits))
    return medians


def register(bits):
    client = tracking_store.connect()
    ensure_model(client)
    evaluated = {f"song-{n}": numbers(value) for n, value in enumerate(bits)}
    entry = json.dumps({"summary": numbers(float(np.mean(bits))), "songs": evaluated})
    client.create_model_version("songcast", source="here", tags={MEASURED: entry})
    client.set_registered_model_alias("songcast", "champion", "1")


def run(capfd, *options):
    capfd.readouterr()
    code = cli.main(["monitor", "--json", *options])
    return code, json.loads(capfd.readouterr().out)


def test_forty_songs_of_one_kind_and_forty_of_another_get_the_right_verdicts(
    tmp_path, monkeypatch, capfd
):
    use_repository(tmp_path, monkeypatch)
    first, second = serve(songs(1, 100), songs(2, 200))
    records = read_records(records_path(), URI)
    assert len(records) == 80
    register([r.bits_per_sample for r in records[:12]])  # songs of the first kind

    code, result = run(capfd, "--window", "40")
    assert (code, result["drift"], result["version"]) == (monitor.DRIFT, True, 1)
    for name in ("registration", "before"):
        shift = result["measures"]["bits_per_sample"][name]
        assert shift["shift"] == pytest.approx(second - first, abs=0.15)
        assert (shift["songs"], shift["p"] < 0.001, shift["effect"] > 0.9) == (40, True, True)
    higher = result["measures"]["bits_per_sample"]["registration"]["shift"]
    assert result["verdict"][0] == (
        f"bits per sample {higher:.2f} higher than at registration, p < 0.001, 40 songs"
    )
    assert run(capfd, "--window", "80")[0] == monitor.DRIFT  # half of them are of the other kind
    assert run(capfd, "--window", "1d")[1]["songs"] == 80

    with closing(open_records(records_path())) as connection, connection:
        connection.execute("DELETE FROM songs WHERE id > 40")
    for options in (
        ("--window", "20"),
        ("--window", "1d", "--log", "--plot", "drift.png"),
        ("--log",),
    ):
        code, result = run(capfd, *options)
        assert (code, result["drift"]) == (0, False), result
    assert (tmp_path / "drift.png").read_bytes()[:4] == b"\x89PNG"
    (logged,) = all_runs("monitor")
    assert logged.info.status == "FINISHED"
    assert logged.data.metrics["songs"] == 40
    assert steps_of(logged.info.run_id, "drift") == [(0, 0.0), (1, 0.0)]

    code, result = run(capfd, "--window", "19")
    assert (code, result["verdict"]) == (
        0,
        ["too few songs for a verdict: 19 in the window, 20 are needed"],
    )
    assert cli.main(["monitor"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].split()[0] == "measure" and lines[-1] == "version 1: no drift"


def test_without_records_or_with_another_window_it_is_one_line(tmp_path, monkeypatch, rejection):
    assert "no model is registered yet" in rejection("monitor")
    use_repository(tmp_path, monkeypatch)
    register([6.0])
    assert "no songs were served yet" in rejection("monitor")
    for window in ("0", "0d", "-1", "d", "7w", "1e3d"):
        assert "is not a window" in rejection("monitor", f"--window={window}")
    records_path().parent.mkdir()
    open_records(records_path()).close()
    assert "no/such/folder/p.png: cannot be written" in rejection(
        "monitor", "--plot=no/such/folder/p.png"
    )
    records_path().write_bytes(b"not a database" * 100)
    assert "cannot be read (file is not a database)" in rejection("monitor")


def test_windows_count_a_song_once_and_do_not_overlap():
    day = monitor.DAY_SECONDS
    rows = [
        SimpleNamespace(song=song, time=at * day)
        for song, at in (("a", 1), ("b", 2), ("a", 3), ("c", 4), ("c", 5), ("d", 6), ("b", 7))
    ]

    def names(*arguments):
        return ["".join(r.song for r in part) for part in monitor.windows(rows, *arguments)]

    assert names(None, 2, 0.0) == ["db", "ac"]
    assert names(None, 9, 0.0) == ["acdb", ""]
    assert names(3.0, None, 7.5 * day) == ["cdb", "bac"]


def test_songs_of_the_same_kind_rarely_are_drift():
    rng, runs = np.random.default_rng(0), 200
    false_alarms = 0
    for _ in range(runs):
        sides = [rng.normal(6, 1.5, size) for size in (60, 8, 60)]
        shifts = [measured_shift(sides[0].tolist(), other.tolist()) for other in sides[1:]]
        false_alarms += any(is_drift(shift, 2) for shift in shifts)
    assert false_alarms <= 0.02 * runs

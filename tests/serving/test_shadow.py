"""A shadow forecasts served songs, and only while a worker is idle; surprising songs are kept."""

import json
import threading
import time
from contextlib import closing

import numpy as np
import pytest

from helpers.mlflow_store import numbers, use_repository
from helpers.serving_models import Echo, FixedModel, running
from helpers.waiting import wait_until
from songcast import cli
from songcast.audio.songs import read_song
from songcast.errors import RegistryError
from songcast.forecasting.baselines import Persistence
from songcast.registry import promotion
from songcast.registry.live import (
    Record,
    add_record,
    live_comparison,
    open_records,
    read_records,
    records_path,
)
from songcast.registry.versions import MEASURED, RIDGE, ensure_model
from songcast.serving.app import create_app
from songcast.serving.champion import ServedModel
from songcast.serving.idle import IdleWorker, SurprisingSongs
from songcast.serving.jobs import JobQueue, Limits
from songcast.tracking import store as tracking_store


class Shifted(Persistence):
    """Forecasts a song whose lowest bits are missing, which needs more bits."""

    def session(self, channels):
        session = super().session(channels)
        forecast = session.forecast_block
        session.forecast_block = lambda samples: forecast(samples // 64 * 64)
        return session


def walks(count, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        walk = np.cumsum(rng.normal(0, 30, 300)).astype(int)
        yield {"samples": walk.tolist(), "sample_rate_hz": 44100}


def served(model, number):
    uri = f"models:/songcast/{number}"
    fixed = FixedModel(model)
    fixed.current = ServedModel(
        model=model, uri=uri, pinned_uri=uri, frames_per_second=1e5, expected_bits=5.0
    )
    return fixed


def send(client, songs):
    for song in songs:
        body = {"inputs": [json.dumps(song)], "params": {"task": "score"}}
        assert client.post("/invocations", json=body).status_code == 200


def record(number, bits, shadow):
    """Record the bits of songs, as a server with this version does."""
    uri = f"models:/songcast/{number}"
    with closing(open_records(records_path())) as connection:
        for song, value in enumerate(bits):
            add_record(
                connection,
                Record(
                    time=time.time(),
                    model=uri,
                    shadow=shadow,
                    song=f"{song:016x}",
                    seconds=0.01,
                    sample_rate_hz=44100,
                    channels=1,
                    bits_per_sample=float(value),
                    prediction_gain_db=20.0,
                    work_seconds=0.0,
                ),
            )


def register(*bits):
    client = tracking_store.connect()
    ensure_model(client)
    for value in bits:
        entry, ridge = ({"summary": numbers(b), "songs": {"a": numbers(b)}} for b in (value, 9.0))
        tags = {MEASURED: json.dumps(entry), RIDGE: json.dumps(ridge)}
        client.create_model_version("songcast", source="here", tags=tags)
    return client


def test_a_better_challenger_is_promoted_on_live_evidence_and_a_worse_one_refused(
    tmp_path, monkeypatch, capfd
):
    use_repository(tmp_path, monkeypatch)
    client = register(6.0, 6.1, 6.2)  # on held-out passages, later versions seem worse
    client.set_registered_model_alias("songcast", "champion", "1")
    client.set_registered_model_alias("songcast", "challenger", "2")
    with pytest.raises(RegistryError, match="no songs were served yet"):
        promotion.promote(2, live=True)
    observed = {"records": records_path(), "shadow": served(Persistence(), 2)}
    with running(create_app(served(Shifted(), 1), Limits(), **observed)) as server:
        send(server, [*walks(3), *walks(1)])  # the last one is known already
        wait_until(lambda: 'result="compared"} 4.0' in server.get("/metrics").text)
    assert len(live_comparison("models:/songcast/2", "models:/songcast/1").songs) == 3
    rng = np.random.default_rng(1)
    hard = 8 + rng.normal(0, 1, 22)  # which songs are hard is the same for both versions
    gains = rng.uniform(2, 3, 22)
    record(1, hard[:16], shadow=0)
    record(2, (hard - gains)[:16], shadow=1)
    with pytest.raises(RegistryError, match="19 served songs: 20 are needed"):
        promotion.promote(2, live=True)
    record(1, hard, shadow=0)
    record(2, hard - gains, shadow=1)
    with pytest.raises(RegistryError, match="not better than the champion"):
        promotion.promote(2)
    assert cli.main(["promote", "challenger", "--live", "--json"]) == 0
    move = json.loads(capfd.readouterr().out)
    truth = live_comparison("models:/songcast/2", "models:/songcast/1")
    assert move["live"] == {
        "songs": 25,
        "mean_bits": truth.mean,
        "low_bits": truth.low,
        "high_bits": truth.high,
    }
    assert truth.low < truth.mean < truth.high < 0
    assert cli.main(["compare", "champion", "1", "--live"]) == 0
    line, verdict = capfd.readouterr().out.splitlines()
    assert line.startswith(f"mean {truth.mean:+.4f}, ") and line.endswith(", 25 songs")
    assert verdict == "version 2 is better"

    record(3, hard + 1, shadow=1)
    with pytest.raises(RegistryError, match=r"not better than the champion.*over 22 songs"):
        promotion.promote(3, live=True)
    forced = promotion.promote(3, "a test", force=True, live=True)
    assert forced.live["mean_bits"] > 0 and "over 22 songs" in forced.overruled[0]
    assert promotion.history()[-1] == forced
    assert cli.main(["history"]) == 0
    assert f"(live: {truth.mean:+.4f} bits per sample" in capfd.readouterr().out


def test_idle_work_starts_and_goes_through_only_while_a_worker_is_idle():
    jobs, steps, done = JobQueue(Limits(workers=1)), [], threading.Event()
    idle = IdleWorker(jobs)

    def task(decoder, check):
        for _ in range(3):
            check()
            steps.append(jobs.idle)
            while len(steps) == 1 and jobs.idle:
                time.sleep(0.01)
        done.set()

    assert idle.offer(task)
    wait_until(lambda: steps)
    with jobs.job():
        accepted = [idle.offer(task) for _ in range(6)]
        assert accepted == [True] * 4 + [False] * 2
        time.sleep(0.2)
        assert steps == [True]
    assert done.wait(600)  # the thread has the lowest priority
    jobs.stop()
    idle.stop()


def test_a_failing_shadow_does_not_end_the_server_or_the_idle_worker(tmp_path, caplog):
    class Broken(Echo):
        def session(self, channels):
            if channels == 2:
                raise ValueError("a bug")
            return super().session(channels)

    path = tmp_path / "records.db"
    observed = {"records": path, "shadow": served(Broken(), 2)}
    with running(create_app(served(Echo(), 1), Limits(), **observed)) as client:
        send(client, [{"samples": [[1, 2]], "sample_rate_hz": 8000}])
        send(client, [{"samples": [1, 2], "sample_rate_hz": 8000}])
        wait_until(lambda: path.exists() and len(read_records(path, "models:/songcast/2")) == 1)
    assert "work on an answered song failed: ValueError('a bug')" in caplog.text


def test_the_most_surprising_songs_are_kept_and_nothing_else(tmp_path, chord):
    folder = tmp_path / "surprising"
    kept = SurprisingSongs(folder, 2)
    for digit, excess in (("a", 1.0), ("b", -2.0), ("c", 0.5), ("d", 0.1), ("a", 9.0)):
        kept.keep(chord, digit * 16, excess)
    names = sorted(path.name for path in folder.iterdir())
    assert names == [f"song-{'a' * 16}+1.000.flac", f"song-{'c' * 16}+0.500.flac"]
    np.testing.assert_array_equal(read_song(folder / names[0]).samples, chord.samples)
    again = SurprisingSongs(folder, 2)  # the server was started again
    assert again.wanted("e" * 16, 0.6) and not again.wanted("e" * 16, 0.4)


def test_a_server_keeps_songs_only_if_asked(tmp_path):
    folder = tmp_path / "surprising"
    songs = [{"samples": [0, n * 100, 0, n], "sample_rate_hz": 8000} for n in range(1, 6)]
    for keep in (False, True):
        kept = SurprisingSongs(folder, 3) if keep else None
        app = create_app(served(Echo(), 1), Limits(), surprising=kept)
        with running(app) as client:
            send(client, songs)
            if keep:
                wait_until(lambda: len(list(folder.glob("song-*.flac"))) >= 1)
                folder.rename(tmp_path / "moved")
                send(client, songs)
        assert not folder.exists()

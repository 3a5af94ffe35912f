"""The server answers as MLflow's does, refuses clearly, and never more than it can do."""

import base64
import gc
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from types import SimpleNamespace

import httpx
import numpy as np
import pytest

from helpers.serving_models import Echo, app_of, running
from helpers.waiting import wait_until
from songcast import cli
from songcast.audio.songs import Song, read_song, write_song
from songcast.commands import serve
from songcast.registry.mlflow_model import example_song
from songcast.serving import champion as champion_module
from songcast.serving import jobs
from songcast.serving.app import create_app
from songcast.serving.champion import Champion
from songcast.serving.jobs import Limits
from songcast.serving.payload import decode_file

RAW = {"samples": [[0, 1], [32767, -32768], [5, 6]], "sample_rate_hz": 22050}


@pytest.fixture(scope="module")
def client():
    with running(app_of(Echo())) as found:
        yield found


def asked(client, song, **params):
    return client.post("/invocations", json={"inputs": [song], "params": params})


def file_of(song, suffix, folder):
    path = folder / f"song{suffix}"
    write_song(song, path)
    return path


def test_every_form_of_mlflows_payload_is_answered_alike(client):
    song = example_song()
    forms = [
        {"dataframe_split": {"columns": ["song"], "data": [[song]]}},
        {"dataframe_records": [{"song": song}]},
        {"inputs": {"song": [song]}},
        {"inputs": {"song": song}},
        {"inputs": [song]},
        {"inputs": song},
        {"instances": [{"song": song}]},
        {"instances": [song]},
    ]
    answers = [client.post("/invocations", json=form) for form in forms]
    assert [a.status_code for a in answers] == [200] * len(forms)
    assert all(a.json() == answers[0].json() for a in answers)
    (row,) = answers[0].json()["predictions"]
    assert row["sample_rate_hz"] == 16_000
    sent = decode_file(base64.b64decode(song), "sent").samples
    heard = decode_file(base64.b64decode(row["audio"]), "heard").samples
    np.testing.assert_array_equal(heard[1:], sent[:-1])


def test_raw_samples_are_a_song_too(client):
    flat = {"samples": [1, 2, 3], "sample_rate_hz": 8000}
    for cell in (RAW, json.dumps(RAW), flat):
        answer = asked(client, cell)
        assert answer.status_code == 200, answer.text
    (row,) = asked(client, RAW).json()["predictions"]
    assert row["sample_rate_hz"] == 22050
    heard = decode_file(base64.b64decode(row["audio"]), "heard").samples
    np.testing.assert_array_equal(heard, [[0, 0], [0, 1], [32767, -32768]])


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp3", ".ogg", ".m4a"])
def test_the_predicted_wav_is_that_of_songcast_predict(client, chord, tmp_path, suffix):
    path = file_of(chord, suffix, tmp_path)
    out = tmp_path / "predicted.wav"
    assert cli.main(["predict", str(path), "-o", str(out), "--model", "persistence"]) == 0
    (row,) = asked(client, base64.b64encode(path.read_bytes()).decode()).json()["predictions"]
    assert base64.b64decode(row["audio"]) == out.read_bytes()
    forecast = Echo().forecast(read_song(path))
    assert row["prediction_gain_db"] == pytest.approx(forecast.prediction_gain_db.tolist())
    assert row["bits_per_sample"] == pytest.approx(forecast.bits_per_sample)


@pytest.mark.parametrize("audio_format", ["wav", "flac", "mp3"])
def test_the_format_and_the_task_are_the_clients_choice(client, audio_format):
    song = example_song()
    (row,) = asked(client, song, format=audio_format).json()["predictions"]
    start = {"wav": b"RIFF", "flac": b"fLaC", "mp3": (b"ID3", b"\xff")}[audio_format]
    assert base64.b64decode(row["audio"]).startswith(start)
    (scored,) = asked(client, song, task="score").json()["predictions"]
    assert (scored["audio"], scored["format"]) == (None, None)
    assert scored["bits_per_sample"] == row["bits_per_sample"]


def test_a_continuation_is_the_same_streamed_or_not(client, chord, tmp_path):
    path = file_of(chord, ".flac", tmp_path)
    text = base64.b64encode(path.read_bytes()).decode()
    params = {"task": "continue", "seconds": 0.3, "temperature": 0.5, "seed": 7}
    (row,) = asked(client, text, **params).json()["predictions"]
    assert (row["prediction_gain_db"], row["bits_per_sample"]) == (None, None)
    streamed = client.post(
        "/continue",
        params={k: v for k, v in params.items() if k != "task"},
        content=path.read_bytes(),
    )
    assert streamed.headers["content-type"] == "audio/wav"
    assert streamed.content == base64.b64decode(row["audio"])
    made = np.concatenate(list(Echo().stream_song(chord, 0.3, 0.5, 7)))
    write_song(
        Song(samples=made, sample_rate_hz=chord.sample_rate_hz, name=""), tmp_path / "more.wav"
    )
    assert streamed.content == (tmp_path / "more.wav").read_bytes()
    other = client.post("/continue", params={"seed": 8}, content=path.read_bytes())
    assert other.content != streamed.content


SONG = example_song()


@pytest.mark.parametrize(
    ("said", "status", "message"),
    [
        (b"{", 422, "JSON"),
        ({}, 422, "exactly one of"),
        ({"inputs": [SONG], "instances": [SONG]}, 422, "exactly one of"),
        ({"inputs": [5]}, 422, "inputs"),
        ({"inputs": [SONG], "params": {"task": "sing"}}, 422, "params.task"),
        ({"inputs": [SONG], "params": {"tempo": 1}}, 422, "params.tempo"),
        ({"inputs": [SONG], "params": {"seconds": 0}}, 422, "params.seconds"),
        ({"inputs": [SONG], "params": {"seconds": 1e9}}, 422, "params.seconds"),
        ({"inputs": [SONG], "params": {"temperature": -1}}, 422, "params.temperature"),
        ({"inputs": [SONG], "params": {"seed": 2**70}}, 422, "params.seed"),
        ({"inputs": ["###"]}, 422, "song 0: not base64"),
        ({"inputs": [""]}, 422, "song 0: empty"),
        ({"inputs": ""}, 422, "song 0: empty"),
        ({"inputs": [SONG, base64.b64encode(b"just text").decode()]}, 422, "song 1"),
        ({"inputs": [SONG[:200]]}, 422, "truncated"),
        ({"inputs": [{"samples": [1, 99999], "sample_rate_hz": 8000}]}, 422, "between"),
        ({"inputs": [{"samples": [[1, 2, 3]], "sample_rate_hz": 8000}]}, 422, "one or two"),
        ({"inputs": [{"samples": [[1, 2], [3]], "sample_rate_hz": 8000}]}, 422, "raw samples"),
        ({"inputs": ['{"samples": [0.5], "sample_rate_hz": 8000}']}, 422, "integers"),
        ({"inputs": ['{"samples": [1], "sample_rate_hz": 0}']}, 422, "sample_rate_hz"),
        ({"inputs": ["{" * 100_000]}, 422, "raw samples"),
        ({"inputs": [SONG] * 17}, 413, "17 songs"),
        ({"dataframe_split": {"columns": ["name"], "data": [["x"]]}}, 422, "columns"),
        (
            {
                "inputs": ['{"samples": [1], "sample_rate_hz": 8000}'],
                "params": {"task": "continue"},
            },
            422,
            "too short",
        ),
    ],
)
def test_a_mistake_is_one_line_that_names_it(client, said, status, message):
    body = said if isinstance(said, bytes) else json.dumps(said).encode()
    answer = client.post("/invocations", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error_code", "message"}
    assert message in answer.json()["message"]
    assert "\n" not in answer.json()["message"] and "/tmp" not in answer.text


def test_other_requests_are_refused_in_the_same_words(client):
    cases = [
        (client.post("/invocations", content=b"song"), 415),
        (client.get("/invocations"), 405),
        (client.get("/nothing"), 404),
        (client.post("/continue", content=b"just text"), 422),
        (client.post("/continue", content=b""), 422),
        (client.post("/continue", params={"seconds": "nan"}, content=b"x"), 422),
        (client.post("/continue", params={"seed": "-1"}, content=b"x"), 422),
        (client.get("/ping", headers={"origin": "http://evil.example"}), 403),
    ]
    for answer, status in cases:
        assert answer.status_code == status, answer.text
        assert set(answer.json()) == {"error_code", "message"}


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200),
        ("127.0.0.1:8000", 200),
        ("[::1]:8000", 200),
        ("evil.example:8000", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost@evil.example", 403),
        ("[evil", 403),
        ("", 403),
    ],
)
def test_on_its_own_machine_it_answers_to_that_machines_names_alone(host, status):
    with running(app_of(Echo(), local=True)) as client:
        for path in ("/", "/ping", "/version"):
            answer = client.get(path, headers={"host": host})
            assert answer.status_code == status, answer.text
    with running(app_of(Echo(), token="secret", local=True)) as client:
        assert client.get("/ping", headers={"host": host}).status_code == 200


def test_too_large_and_too_long_are_413():
    limits = Limits(body_bytes=100_000, max_frames=1000)
    with running(app_of(Echo(), limits)) as client:

        def parts():
            yield b"x" * 60_000
            yield b"x" * 60_000

        known = client.post("/continue", content=b"x" * 120_000)
        unknown = client.post("/continue", content=parts())
        long = json.dumps({"samples": [1] * 1001, "sample_rate_hz": 8000})
        raw = client.post("/invocations", json={"inputs": [long]})
        fits = client.post("/invocations", json={"inputs": [example_song()]})
    assert [a.status_code for a in (known, unknown, raw, fits)] == [413, 413, 413, 200]
    assert "more than 1000 frames" in raw.json()["message"]


def test_silence_packed_small_is_refused_without_unpacking_it(tmp_path):
    """Ten minutes of silence in a flac of a few kB: what unpacks large is stopped on the way."""
    silence = np.zeros((600 * 44100, 1), np.int16)
    path = file_of(Song(samples=silence, sample_rate_hz=44100, name=""), ".flac", tmp_path)
    assert path.stat().st_size < 300_000
    with running(app_of(Echo())) as client:
        answer = client.post("/continue", content=path.read_bytes())
    assert (answer.status_code, "more than 14400000 frames" in answer.text) == (413, True)


class Held(Echo):
    """Goes on with a song for one block, and then not before it is let go."""

    def __init__(self):
        super().__init__()
        self.let_go = threading.Event()

    def _blocks(self, *asked):
        for number, block in enumerate(super()._blocks(*asked)):
            if number > 0:
                self.let_go.wait(300)
            yield block


def at_work(client, requests):
    """Whether so many are being read, waiting or worked on."""
    return f"songcast_requests_in_progress {requests}.0" in client.get("/metrics").text


class Clock:
    """The work's own, which a test puts forward: what is late is so by minutes."""

    ahead = 0.0

    def monotonic(self):
        return time.monotonic() + self.ahead


def test_beyond_its_places_the_server_says_429_and_what_is_late_503(chord, tmp_path, monkeypatch):
    path, clock = file_of(chord, ".wav", tmp_path), Clock()
    monkeypatch.setattr(jobs, "time", clock)
    limits = Limits(max_requests=2, workers=1)
    held = Held()
    statuses = []
    with running(app_of(held, limits)) as client:

        def ask():
            try:
                answer = client.post(
                    "/continue", content=path.read_bytes(), params={"seconds": 100}
                )
                statuses.append(answer.status_code)
            except httpx.RemoteProtocolError:  # its head was sent already: it can only be cut
                statuses.append("cut")

        first, second = threading.Thread(target=ask), threading.Thread(target=ask)
        try:
            first.start()
            wait_until(lambda: held.blocks == 2)  # the first is sent, the second held
            second.start()
            wait_until(lambda: at_work(client, 2))
            third = client.post("/continue", content=path.read_bytes())
            alive = client.get("/ping")
            clock.ahead += 2 * limits.request_seconds  # now both are late
        finally:
            held.let_go.set()
        first.join()
        second.join()
        after = client.post("/continue", content=path.read_bytes(), params={"seconds": 0.01})
    assert alive.status_code == 200
    assert (third.status_code, third.headers["retry-after"]) == (429, "5")
    assert sorted(statuses, key=str) == [503, "cut"]
    assert after.status_code == 200


def test_work_ends_when_its_client_goes_away(chord, tmp_path):
    path = file_of(chord, ".wav", tmp_path)
    slow = Echo(delay_seconds=0.02)
    with running(app_of(slow, Limits(max_requests=1, workers=1))) as client:
        with client.stream(
            "POST", "/continue", content=path.read_bytes(), params={"seconds": 300}
        ) as answer:
            next(answer.iter_bytes(2000))
        short = {"seconds": 0.01}
        wait_until(
            lambda: client.post("/continue", content=path.read_bytes(), params=short).is_success
        )
    assert slow.blocks < 500  # of 13 230


def invoke(client):
    return client.post("/invocations", json={"inputs": [RAW]}).status_code


def test_a_client_that_sends_nothing_loses_its_place():
    with running(app_of(Echo(), Limits(max_requests=1, request_seconds=0.5))) as client:
        with socket.create_connection(("127.0.0.1", client.base_url.port)) as idle:
            idle.sendall(b"POST /continue HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
            assert b"503" in idle.recv(100)
        assert invoke(client) != 429  # the only place is free again


def test_a_client_that_takes_nothing_loses_its_place_and_its_worker(chord, tmp_path, caplog):
    content = file_of(chord, ".wav", tmp_path).read_bytes()
    head = f"POST /continue?seconds=300 HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}"
    limits = Limits(max_requests=1, workers=1, request_seconds=2.0)
    with (
        running(app_of(Echo(), limits)) as client,
        socket.create_connection(("127.0.0.1", client.base_url.port)) as idle,
    ):
        idle.sendall(f"{head}\r\n\r\n".encode() + content)
        # 53 MB are due, more than any socket holds.
        wait_until(lambda: "continuation aborted: not" in caplog.text)
        wait_until(lambda: invoke(client) == 200)


def test_an_upload_that_breaks_off_is_no_error_of_the_server(capfd):
    with running(app_of(Echo(), Limits(max_requests=1))) as client:
        with socket.create_connection(("127.0.0.1", client.base_url.port)) as broken:
            broken.sendall(b"POST /continue HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nRIFF")
            time.sleep(0.2)
        wait_until(lambda: invoke(client) != 429)
    assert capfd.readouterr().err == ""


def test_a_token_guards_everything_but_the_page():
    with running(app_of(Echo(), token="secret")) as client:
        for path in ("/version", "/metrics"):
            assert client.get(path).status_code == 401
        assert asked(client, example_song()).status_code == 401
        wrong = client.get("/version", headers={"authorization": "Bearer secrets"})
        assert (wrong.status_code, wrong.headers["www-authenticate"]) == (401, "Bearer")
        client.headers["authorization"] = "Bearer secret"
        assert asked(client, example_song()).status_code == 200
        assert client.get("/version").status_code == 200
        client.headers.pop("authorization")
        assert [client.get(p).status_code for p in ("/", "/docs", "/ping")] == [200] * 3


def test_pages_load_nothing_from_elsewhere(client):
    for path in ("/", "/docs"):
        page = client.get(path)
        assert page.status_code == 200
        assert "default-src 'self'" in page.headers["content-security-policy"]
        assert re.findall(r"(?:https?:)?//\w[\w.-]+\.\w+", page.text) == []
    for path in re.findall(r'(?:src|href)="(/[^"]+)"', client.get("/docs").text):
        assert client.get(path).status_code == 200


def test_the_command_serves_until_it_is_told_to_end():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "songcast.cli", "serve", "--port", port]
    with subprocess.Popen(
        [*command, "--model", "persistence"],
        env={**os.environ, "SONGCAST_TOKEN": "secret"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            said = process.stdout.readline()
            url = f"http://127.0.0.1:{port}"
            statuses = [
                httpx.get(f"{url}/version", headers=headers, trust_env=False).status_code
                for headers in ({}, {"authorization": "Bearer secret"})
            ]
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=300) == ("", "")
    assert said == f"songcast is serving at {url}  (Ctrl-C to stop)\n"
    assert (statuses, process.returncode) == ([401, 200], 0)


@pytest.mark.parametrize(
    ("host", "token", "warned"),
    [
        ("127.0.0.1", "", False),
        ("::1", "", False),
        ("localhost", "", False),
        ("0.0.0.0", "", True),
        ("0.0.0.0", "secret", False),
    ],
)
def test_open_to_all_without_a_token_is_said(monkeypatch, capfd, host, token, warned):
    served = []
    monkeypatch.setattr(serve, "check_free", lambda *_: None)
    monkeypatch.setattr(serve, "serve", lambda app, *where: served.append(where))
    monkeypatch.setenv("SONGCAST_TOKEN", token)
    assert cli.main(["serve", "--model", "persistence", "--host", host]) == 0
    assert served == [(host, serve.PORT, Limits().request_seconds)]
    assert ("set SONGCAST_TOKEN" in capfd.readouterr().err) == warned


def test_counters_count(client):
    before = client.get("/metrics").text
    asked(client, example_song())

    def count(text):
        found = re.search(r'requests_total\{path="/invocations",status="200"\} ([\d.]+)', text)
        return float(found[1]) if found else 0.0

    assert count(client.get("/metrics").text) == count(before) + 1


class Versions:
    """A registry whose alias can be moved, and models that tell which version they are."""

    def __init__(self, monkeypatch):
        self.now = 1
        self.begun = threading.Event()
        monkeypatch.setattr(champion_module, "POLL_SECONDS", 0.05)
        monkeypatch.setattr(champion_module, "load", lambda uri: self.model(int(uri[-1])))
        monkeypatch.setattr("songcast.registry.alias", lambda name: self.now)
        monkeypatch.setattr(
            "songcast.registry.named",
            lambda uri: SimpleNamespace(
                number=self.now, uri=f"models:/songcast/{self.now}", tags={}, weights_sha256="ab"
            ),
        )

    def model(self, number):
        if number == 3:
            from songcast.errors import BundleError

            raise BundleError("sha256 differs")
        found = Echo(delay_seconds=0.05)
        found.stream_song = lambda song, **settings: self.blocks(found, song, number)
        return found

    def blocks(self, model, song, number):
        self.begun.set()
        for _ in range(10):
            time.sleep(model.delay_seconds)
            yield np.full((441, song.channels), number, np.int16)


def test_a_model_that_was_replaced_leaves_memory(monkeypatch):
    versions = Versions(monkeypatch)  # its models are rings of references, as Keras' are
    champion = Champion("models:/songcast@champion")
    replaced = weakref.ref(champion.current.model)
    versions.now = 2
    gc.disable()
    try:
        assert champion.refresh()
    finally:
        gc.enable()
    assert replaced() is None


def test_the_model_follows_its_alias_and_requests_finish_with_theirs(
    chord, tmp_path, monkeypatch, caplog
):
    path = file_of(chord, ".wav", tmp_path)
    versions = Versions(monkeypatch)
    app = create_app(Champion("models:/songcast@champion"), Limits())
    with running(app) as client:
        heard = {}

        def ask(name):
            answer = client.post("/continue", params={"seconds": 0.1}, content=path.read_bytes())
            heard[name] = np.frombuffer(answer.content[44:], "<i2")

        def served():
            return client.get("/version").json()["version"]

        early = threading.Thread(target=ask, args=("early",))
        early.start()
        assert versions.begun.wait(300)
        versions.now = 2
        wait_until(lambda: served() == 2)
        early.join()
        ask("late")
        versions.now = 3  # its files are altered: the model that works stays
        wait_until(lambda: "still serving version 2" in caplog.text)
        assert served() == 2
        ask("after")
    assert set(heard["early"]) == {1}
    assert set(heard["late"]) == set(heard["after"]) == {2}
    assert caplog.text.count("sha256 differs") == 1


def test_whatever_a_version_raises_the_next_one_is_followed(monkeypatch, caplog):
    versions = Versions(monkeypatch)

    def load(uri):
        if uri.endswith("2"):
            raise KeyError("slow_units")  # a bundle of another songcast
        return versions.model(int(uri[-1]))

    monkeypatch.setattr(champion_module, "load", load)
    with Champion("models:/songcast@champion") as champion:
        for number, reached in (
            (2, lambda: "still serving version 1: KeyError('slow_units')" in caplog.text),
            (4, lambda: champion.current.version == 4),
        ):
            versions.now = number
            wait_until(reached)

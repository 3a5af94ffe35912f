"""The HTTP interface: MLflow's payloads, streamed continuations, errors in one line, access."""

import base64
import json
import re

import numpy as np
import pytest

from helpers.serving_models import SONG, Echo, app_of, running
from songcast import cli
from songcast.audio.songs import Song, read_song, write_song
from songcast.serving.jobs import Limits
from songcast.serving.payload import decode_file

RAW = {"samples": [[0, 1], [32767, -32768], [5, 6]], "sample_rate_hz": 22050}


@pytest.fixture(scope="module")
def client():
    with running(app_of(Echo())) as client:
        yield client


def invoke(client, song, **params):
    return client.post("/invocations", json={"inputs": [song], "params": params})


def predict(client, song, **params):
    response = invoke(client, song, **params)
    assert response.status_code == 200, response.text
    (prediction,) = response.json()["predictions"]
    return prediction


def audio_of(prediction):
    return base64.b64decode(prediction["audio"])


def write(song, path):
    write_song(song, path)
    return path.read_bytes()


def assert_error(response, status, text=""):
    """The response has ``status``; its message is one line that contains ``text`` and no path."""
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error_code", "message"}
    assert text in response.json()["message"]
    assert "\n" not in response.json()["message"] and "/tmp" not in response.text


def test_all_forms_of_mlflows_payload_give_the_same_response(client):
    forms = [
        {"dataframe_split": {"columns": ["song"], "data": [[SONG]]}},
        {"dataframe_records": [{"song": SONG}]},
        {"inputs": {"song": [SONG]}},
        {"inputs": {"song": SONG}},
        {"inputs": [SONG]},
        {"inputs": SONG},
        {"instances": [{"song": SONG}]},
        {"instances": [SONG]},
    ]
    responses = [client.post("/invocations", json=form) for form in forms]
    assert [r.status_code for r in responses] == [200] * len(forms)
    assert all(r.json() == responses[0].json() for r in responses)
    (prediction,) = responses[0].json()["predictions"]
    assert prediction["sample_rate_hz"] == 16_000
    sent = decode_file(base64.b64decode(SONG), "sent").samples
    predicted = decode_file(audio_of(prediction), "predicted").samples
    np.testing.assert_array_equal(predicted[1:], sent[:-1])


def test_a_song_may_be_sent_as_raw_samples(client):
    predict(client, {"samples": [1, 2, 3], "sample_rate_hz": 8000})
    for song in (RAW, json.dumps(RAW)):
        prediction = predict(client, song)
        assert prediction["sample_rate_hz"] == 22050
        predicted = decode_file(audio_of(prediction), "predicted").samples
        np.testing.assert_array_equal(predicted, [[0, 0], [0, 1], [32767, -32768]])


def test_the_predicted_wav_equals_that_of_songcast_predict(client, chord, tmp_path):
    out = tmp_path / "predicted.wav"
    for suffix in (".wav", ".flac", ".mp3", ".ogg", ".m4a"):
        path = tmp_path / f"song{suffix}"
        content = write(chord, path)
        assert cli.main(["predict", str(path), "-o", str(out), "--model", "persistence"]) == 0
        prediction = predict(client, base64.b64encode(content).decode())
        assert audio_of(prediction) == out.read_bytes(), suffix
        forecast = Echo().forecast(read_song(path))
        assert prediction["prediction_gain_db"] == pytest.approx(
            forecast.prediction_gain_db.tolist()
        )
        assert prediction["bits_per_sample"] == pytest.approx(forecast.bits_per_sample)


def test_params_choose_the_audio_format_and_the_task(client):
    scored = predict(client, SONG, task="score")
    assert (scored["audio"], scored["format"]) == (None, None)
    for audio_format, start in (("wav", b"RIFF"), ("flac", b"fLaC"), ("mp3", (b"ID3", b"\xff"))):
        prediction = predict(client, SONG, format=audio_format)
        assert audio_of(prediction).startswith(start)
        assert prediction["bits_per_sample"] == scored["bits_per_sample"]


def test_a_streamed_forecast_equals_the_invocation_and_reports_its_progress(
    client, chord, tmp_path
):
    content = write(chord, tmp_path / "song.flac")
    prediction = predict(client, base64.b64encode(content).decode())
    streamed = client.post("/forecast", params={"job": "mine"}, content=content)
    assert streamed.headers["content-type"] == "audio/wav"
    assert streamed.content == audio_of(prediction)
    progress = client.get("/jobs/mine").json()
    assert (progress["state"], progress["error"]) == ("finished", None)
    assert progress["received_bytes"] == progress["body_bytes"] == len(content)
    assert progress["seconds_done"] == progress["seconds"] == chord.seconds
    assert progress["seconds_left"] == 0.0
    for key in ("prediction_gain_db", "bits_per_sample"):
        assert progress[key] == prediction[key]
    both = client.post("/forecast", params={"original": True}, content=content)
    samples = np.frombuffer(both.content[44:], "<i2").reshape(-1, 2 * chord.channels)
    np.testing.assert_array_equal(samples[:, : chord.channels], chord.samples)
    predicted = decode_file(streamed.content, "predicted").samples
    np.testing.assert_array_equal(samples[:, chord.channels :], predicted)
    assert client.get("/jobs/other").json()["state"] == "unknown"
    assert_error(client.post("/forecast", params={"job": "bad"}, content=b"just text"), 422)
    progress = client.get("/jobs/bad").json()
    assert progress["state"] == "failed" and "not supported audio" in progress["error"]


def test_limits_follow_from_the_speed_of_the_model():
    for speed, frames, seconds in (
        (1e9, 600 * 48_000, 300.0),  # the shortest request limit
        (48_000.0, 600 * 48_000, 60 + 2 * 600),
        (24_000.0, 900 * 24_000, 60 + 2 * 900),
        (1_000.0, 60 * 48_000, 60 + 2 * 2880),  # a minute of music is always allowed
    ):
        limits = Limits.for_speed(speed)
        assert (limits.max_frames, limits.request_seconds) == (frames, seconds)
    with running(app_of(Echo(), Limits.for_speed(24_000.0))) as client:
        sent = client.get("/limits").json()
        assert (sent["frames"], sent["request_seconds"]) == (21_600_000, 1860)


def test_a_continuation_is_the_same_whether_streamed_or_not(client, chord, tmp_path):
    content = write(chord, tmp_path / "song.flac")
    settings = {"seconds": 0.3, "temperature": 0.5, "seed": 7}
    prediction = predict(client, base64.b64encode(content).decode(), task="continue", **settings)
    assert (prediction["prediction_gain_db"], prediction["bits_per_sample"]) == (None, None)
    streamed = client.post("/continue", params=settings, content=content)
    assert streamed.headers["content-type"] == "audio/wav"
    samples = np.concatenate(list(Echo().stream_song(chord, **settings)))
    expected = Song(samples=samples, sample_rate_hz=chord.sample_rate_hz, name="")
    assert streamed.content == audio_of(prediction) == write(expected, tmp_path / "more.wav")
    other = client.post("/continue", params={**settings, "seed": 8}, content=content)
    assert other.content != streamed.content


def test_an_invalid_invocation_gives_one_line_that_names_the_error(client):
    rate = {"sample_rate_hz": 8000}
    short = ['{"samples": [1], "sample_rate_hz": 8000}']
    text = base64.b64encode(b"just text").decode()
    for body, status, message in (
        (b"{", 422, "JSON"),
        ({}, 422, "exactly one of"),
        ({"inputs": [SONG], "instances": [SONG]}, 422, "exactly one of"),
        ({"inputs": [5]}, 422, "inputs"),
        ({"inputs": [SONG], "params": {"task": "sing"}}, 422, "params.task"),
        ({"inputs": [SONG], "params": {"tempo": 1}}, 422, "params.tempo"),
        ({"inputs": [SONG], "params": {"seconds": 0}}, 422, "params.seconds"),
        ({"inputs": [SONG], "params": {"seconds": 1e9}}, 422, "params.seconds"),
        ({"inputs": [SONG], "params": {"seconds": 301}}, 422, "params.seconds is 301"),
        ({"inputs": [SONG], "params": {"temperature": -1}}, 422, "params.temperature"),
        ({"inputs": [SONG], "params": {"seed": 2**70}}, 422, "params.seed"),
        ({"inputs": ["###"]}, 422, "song 0: not base64"),
        ({"inputs": [""]}, 422, "song 0: empty"),
        ({"inputs": ""}, 422, "song 0: empty"),
        ({"inputs": [SONG, text]}, 422, "song 1"),
        ({"inputs": [SONG[:200]]}, 422, "less than half"),
        ({"inputs": [{"samples": [1, 99999], **rate}]}, 422, "between"),
        ({"inputs": [{"samples": [[1, 2, 3]], **rate}]}, 422, "one or two"),
        ({"inputs": [{"samples": [[1, 2], [3]], **rate}]}, 422, "raw samples"),
        ({"inputs": ['{"samples": [0.5], "sample_rate_hz": 8000}']}, 422, "integers"),
        ({"inputs": ['{"samples": [1], "sample_rate_hz": 0}']}, 422, "sample_rate_hz"),
        ({"inputs": ["{" * 100_000]}, 422, "raw samples"),
        ({"inputs": [SONG] * 17}, 413, "17 songs"),
        ({"dataframe_split": {"columns": ["name"], "data": [["x"]]}}, 422, "columns"),
        ({"inputs": short, "params": {"task": "continue"}}, 422, "too short"),
    ):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        assert_error(client.post("/invocations", content=content, headers=headers), status, message)


def test_other_invalid_requests_give_errors_of_the_same_form(client):
    for response, status in (
        (client.post("/invocations", content=b"song"), 415),
        (client.get("/invocations"), 405),
        (client.get("/nothing"), 404),
        (client.post("/continue", content=b"just text"), 422),
        (client.post("/continue", content=b""), 422),
        (client.post("/continue", params={"seconds": "nan"}, content=b"x"), 422),
        (client.post("/continue", params={"seed": "-1"}, content=b"x"), 422),
        (client.get("/ping", headers={"origin": "http://evil.example"}), 403),
    ):
        assert_error(response, status)


def test_bodies_and_songs_above_the_limits_give_413():
    def parts():
        yield b"x" * 60_000
        yield b"x" * 60_000

    long = {"samples": [1] * 1001, "sample_rate_hz": 8000}
    with running(app_of(Echo(), Limits(body_bytes=100_000, max_frames=1000))) as client:
        assert_error(client.post("/continue", content=b"x" * 120_000), 413, "larger than")
        assert_error(client.post("/continue", content=parts()), 413, "larger than")
        assert_error(invoke(client, json.dumps(long)), 413, "longer than 0.12 s at 8 kHz")
        predict(client, SONG)


def test_a_small_file_with_too_many_frames_is_not_decoded_completely(client, tmp_path):
    silence = np.zeros((600 * 44100, 1), np.int16)
    song = Song(samples=silence, sample_rate_hz=44100, name="")
    content = write(song, tmp_path / "silence.flac")
    assert len(content) < 300_000
    assert_error(
        client.post("/continue", content=content), 413, "longer than 5:26 at 44.1 kHz: send"
    )


def test_a_local_server_accepts_only_the_names_of_this_machine():
    hosts = {
        "localhost:8000": 200,
        "127.0.0.1:8000": 200,
        "[::1]:8000": 200,
        "evil.example:8000": 403,
        "127.0.0.1.evil.example": 403,
        "localhost@evil.example": 403,
        "[evil": 403,
        "": 403,
    }
    with running(app_of(Echo(), local=True)) as client:
        for host, status in hosts.items():
            for path in ("/", "/ping", "/version"):
                assert client.get(path, headers={"host": host}).status_code == status, host
    with running(app_of(Echo(), token="secret", local=True)) as client:
        for host in hosts:
            assert client.get("/ping", headers={"host": host}).status_code == 200


def test_the_token_protects_all_but_the_pages_and_the_health_check():
    with running(app_of(Echo(), token="secret")) as client:
        for path in ("/version", "/metrics"):
            assert_error(client.get(path), 401, "Authorization: Bearer TOKEN")
        assert_error(invoke(client, SONG), 401)
        wrong = client.get("/version", headers={"authorization": "Bearer secrets"})
        assert (wrong.status_code, wrong.headers["www-authenticate"]) == (401, "Bearer")
        public = ("/", "/docs", "/ping", "/assets/player.js")
        assert [client.get(path).status_code for path in public] == [200] * 4
        assert client.get("/assets/app.py").status_code == 404
        client.headers["authorization"] = "Bearer secret"
        assert client.get("/version").status_code == 200
        predict(client, SONG)


def test_pages_request_nothing_from_other_machines(client):
    for path in ("/", "/docs"):
        page = client.get(path)
        assert page.status_code == 200
        assert "default-src 'self'" in page.headers["content-security-policy"]
        assert re.findall(r"(?:https?:)?//\w[\w.-]+\.\w+", page.text) == []
        for link in re.findall(r'(?:src|href)="(/[^"]+|assets/[^"]+)"', page.text):
            assert client.get(link).status_code == 200


def test_metrics_count_responses(client):
    def count():
        text = client.get("/metrics").text
        match = re.search(r'requests_total\{path="/invocations",status="200"\} ([\d.]+)', text)
        return float(match[1]) if match else 0.0

    before = count()
    predict(client, SONG)
    assert count() == before + 1

"""The registered model, loaded and served by MLflow."""

import base64
import json
import sys

import numpy as np
import pandas as pd
import pytest

from helpers.mlflow_store import (
    evaluation_of,
    make_bundle,
    numbers,
    use_repository,
    weights_of,
    write_evaluation,
)
from helpers.pickles import pickles_below
from helpers.serving_models import SONG, Echo, app_of, running
from songcast.errors import AudioError
from songcast.registry import downloads
from songcast.registry.mlflow_model import requirements
from songcast.serving import champion
from songcast.serving.payload import decode_song
from songcast.stages import register
from songcast.tracking import store as tracking_store

RAW = json.dumps({"samples": [[0, 1], [32767, -32768], [5, 6]], "sample_rate_hz": 22050})


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The champion of a repository, loaded by MLflow; a fast model replaces its bundle."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        repository = use_repository(tmp_path_factory.mktemp("here"), monkeypatch)
        make_bundle(repository / "models" / "train", 1.0)
        make_bundle(repository / "models" / "retrain", 2.0)
        entries = {"ridge": 7.0, "train": 6.5, "retrain": 6.0}
        measured = {name: numbers(bits) for name, bits in entries.items()}
        write_evaluation(repository, evaluation_of(("a", "b"), **measured))
        register.main()
        loaded = []
        monkeypatch.setattr(champion, "load", lambda path: loaded.append(path) or Echo())
        monkeypatch.setattr(sys, "path", list(sys.path))  # MLflow prepends the model's own code
        monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_store.tracking_uri())
        mlflow = tracking_store.import_mlflow()
        model = mlflow.pyfunc.load_model("models:/songcast@champion")
        assert weights_of(downloads.resolve("models:/songcast@champion")) == weights_of(
            repository / "models" / "retrain"
        )
        assert str(loaded[0]).endswith("artifacts/retrain")
        yield model


def test_the_model_returns_one_row_per_song(served):
    songs = {"song": [SONG, RAW]}
    rows = served.predict(pd.DataFrame(songs), params={"format": "flac"})
    assert served.predict(songs, params={"format": "flac"}) == rows
    json.dumps(rows)
    assert [row["sample_rate_hz"] for row in rows] == [16_000, 22_050]
    assert base64.b64decode(rows[0]["audio"]).startswith(b"fLaC")
    for row, song in zip(rows, songs["song"], strict=True):
        sent = decode_song(song, "y")
        np.testing.assert_array_equal(decode_song(row["audio"], "x").samples[1:], sent.samples[:-1])
        expected = Echo().forecast(sent)
        assert row["prediction_gain_db"] == pytest.approx(expected.prediction_gain_db.tolist())
        assert row["bits_per_sample"] == pytest.approx(expected.bits_per_sample)
    (scored,) = served.predict({"song": SONG}, params={"task": "score"})
    assert (scored["audio"], scored["format"]) == (None, None)
    assert scored["prediction_gain_db"] == rows[0]["prediction_gain_db"]


def test_the_registered_model_requires_no_training_framework():
    names = {line.partition("==")[0] for line in requirements()}
    assert {"mlflow", "numba", "numpy", "safetensors", "soundfile"} <= names
    assert not names & {"tensorflow", "keras", "scikit-learn", "songcast"}


def test_the_registered_model_contains_no_pickle(served):
    folder = downloads.resolve("models:/songcast@champion").parents[1]
    assert {"MLmodel", "code", "requirements.txt"} <= {p.name for p in folder.iterdir()}
    assert pickles_below(folder) == []


def test_the_model_continues_songs(served):
    params = {"task": "continue", "seconds": 0.5, "seed": 3}
    (row,) = served.predict({"song": SONG}, params=params)
    continuation = decode_song(row["audio"], "more")
    assert (continuation.frames, continuation.sample_rate_hz) == (8000, 16_000)
    assert (row["prediction_gain_db"], row["bits_per_sample"]) == (None, None)


def test_invalid_input_raises_invalid_parameter_value(served):
    mlflow = tracking_store.import_mlflow()
    for song, params, message in (
        (SONG, {"task": "sing"}, "task: "),
        (SONG, {"format": "aiff"}, "format: "),
        (SONG, {"task": "continue", "seconds": -1.0}, "seconds: "),
        ("###", {}, "song 0: not base64"),
        ("", {}, "song 0: empty"),
        (base64.b64encode(b"just text").decode(), {}, "song 0"),
    ):
        with pytest.raises(mlflow.MlflowException, match=message) as caught:
            served.predict(pd.DataFrame({"song": [song]}), params=params)
        assert caught.value.error_code == "INVALID_PARAMETER_VALUE"
        assert "/tmp" not in str(caught.value)


def test_songcast_serve_responds_as_mlflows_scoring_server(served):
    from mlflow.pyfunc import scoring_server

    song = SONG
    forms = [
        {"dataframe_split": {"columns": ["song"], "data": [[song], [RAW]]}},
        {"dataframe_records": [{"song": song}], "params": {"format": "flac"}},
        {"inputs": {"song": [song]}, "params": {"task": "score"}},
        {"inputs": [song], "params": {"task": "continue", "seconds": 0.2, "seed": 5}},
        {"instances": [song]},
        {"instances": [{"song": song}]},
    ]

    def post(body):
        return [client.post("/invocations", json=body) for client in clients]

    with running(scoring_server.init(served)) as theirs, running(app_of(Echo())) as ours:
        clients = (theirs, ours)
        for form in forms:
            expected, response = post(form)
            assert expected.status_code == 200, expected.text
            assert response.json() == expected.json(), list(form)
        for path in ("/ping", "/health"):
            expected, response = [client.get(path) for client in clients]
            assert (response.status_code, response.content) == (200, expected.content)
            assert response.headers["content-type"] == expected.headers["content-type"]
        expected, response = post({"inputs": ["###"]})
        assert (expected.status_code, response.status_code) == (400, 422)
        assert response.json()["error_code"] == expected.json()["error_code"]


def test_decoding_errors_name_the_song_and_not_the_scratch_file():
    with pytest.raises(AudioError, match=r"^mine") as caught:
        decode_song(base64.b64encode(b"RIFF").decode(), "mine")
    assert "/tmp" not in str(caught.value)

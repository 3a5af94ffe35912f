"""Versions are registered once, the gate moves the champion, a version becomes a bundle again."""

import base64
import json
import sys
import threading

import numpy as np
import pandas as pd
import pytest

import songcast
from mlflow_store import (
    evaluation_of,
    make_bundle,
    numbers,
    use_repository,
    weights_of,
    write_evaluation,
)
from songcast import promotion, registry, registry_files, tracking, tracking_store
from songcast.errors import AudioError, BundleError, RegistryError
from songcast.forecasters.base import Forecast
from songcast.serving.package import example_song
from songcast.serving.payload import decode_song, suffix_of
from songcast.stages import register


@pytest.fixture
def repository(tmp_path, monkeypatch):
    return use_repository(tmp_path / "here", monkeypatch)


def outputs(folder, train=(1.0, 6.5), retrain=(2.0, 6.0), songs=("a", "b"), **others):
    """Write what the earlier stages leave: two bundles (weight, bits) and the evaluation."""
    make_bundle(folder / "models" / "train", train[0], params={"seed": 1})
    make_bundle(folder / "models" / "retrain", retrain[0], params={"seed": 1})
    entries = {"ridge": numbers(7.0), "train": numbers(train[1]), "retrain": numbers(retrain[1])}
    write_evaluation(folder, evaluation_of(songs, **{**entries, **others}))


def registered(folder):
    assert register.main() == 0
    return json.loads((folder / "registered.json").read_text())


def test_the_better_bundle_becomes_challenger_and_the_first_champion(repository):
    outputs(repository)
    assert registered(repository) == {
        "name": "songcast",
        "versions": {"train": 1, "retrain": 2},
        "challenger": 2,
        "champion": 2,
        "gate": {"passed": True, "reasons": []},
    }
    newest, oldest = registry.versions()
    assert (newest.number, newest.kind, newest.aliases) == (
        2,
        "retrain",
        ("challenger", "champion"),
    )
    assert (oldest.number, oldest.kind, oldest.aliases) == (1, "train", ())
    assert newest.evaluation["summary"]["bits_per_sample"] == 6.0
    run = tracking_store.connect().get_run(newest.run_id)
    assert run.info.run_name == "retrain"
    assert run.data.metrics["test/a/bits_per_sample"] == 6.0


def test_registering_again_changes_nothing(repository):
    outputs(repository)
    first = registered(repository)
    before = registry.versions()
    assert registered(repository) == first
    assert registry.versions() == before
    client = tracking_store.connect()
    assert len(client.search_runs([tracking_store.experiment_id(client)])) == 2


def test_the_champion_moves_only_to_what_beats_it(repository):
    outputs(repository)
    registered(repository)
    outputs(repository, train=(3.0, 6.4), retrain=(4.0, 6.2))
    worse = registered(repository)
    assert (worse["challenger"], worse["champion"]) == (4, 2)
    assert worse["gate"]["passed"] is False
    assert worse["gate"]["reasons"] == [
        "not better than the champion: 6.2000 against 6.0000 bits per sample"
    ]
    assert registered(repository) == worse
    outputs(repository, train=(5.0, 5.5), retrain=(6.0, 5.8))
    better = registered(repository)
    assert (better["challenger"], better["champion"]) == (5, 5)
    assert registry.alias("champion") == registry.alias("challenger") == 5


def test_a_champion_measured_on_other_songs_is_compared_on_the_common_ones(repository):
    outputs(repository, songs=("a", "b"))
    registered(repository)
    outputs(repository, train=(3.0, 6.5), retrain=(4.0, 6.1), songs=("b", "c"))
    assert (
        "on the songs that both were measured on (1)"
        in registered(repository)["gate"]["reasons"][0]
    )
    outputs(repository, train=(3.0, 6.5), retrain=(5.0, 5.9), songs=("b", "c"))
    assert registered(repository)["champion"] == 5
    outputs(repository, train=(3.0, 6.5), retrain=(6.0, 5.0), songs=("d",))
    assert registered(repository)["champion"] == 5  # nothing in common: nothing proven


def test_without_a_passing_version_there_is_no_champion(repository):
    outputs(repository, train=(1.0, 7.5), retrain=(2.0, 7.2))
    content = registered(repository)
    assert (content["challenger"], content["champion"]) == (2, None)
    assert content["gate"]["reasons"] == [
        "not better than ridge: 7.2000 against 7.0000 bits per sample"
    ]
    with pytest.raises(RegistryError, match="no version carries the alias 'champion' yet"):
        registry_files.resolve("models:/songcast@champion")


@pytest.mark.parametrize("nothing", [float("nan"), float("-inf"), None])
def test_a_bundle_without_a_number_is_never_the_challenger(repository, nothing):
    outputs(repository, train=(1.0, nothing), retrain=(2.0, 6.9))
    assert registered(repository)["challenger"] == 2


def test_equal_weights_are_one_version(repository):
    outputs(repository, train=(1.0, 6.0), retrain=(1.0, 6.0))
    content = registered(repository)
    assert content["versions"] == {"train": 1, "retrain": 1}
    assert len(registry.versions()) == 1


def test_registrations_at_once_make_one_version(repository):
    bundle = make_bundle(repository / "models" / "train", 1.0)
    run_id = tracking.ensure_run("train", bundle, {})
    made, wait = [], threading.Barrier(4)

    def task():
        wait.wait()
        made.append(registry.register_bundle(run_id, bundle, "train", {}))

    threads = [threading.Thread(target=task) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1, 1, 1, 1]
    assert len(registry.versions()) == 1


def test_a_run_without_this_model_cannot_be_registered(repository):
    bundle = make_bundle(repository / "models" / "train", 1.0)
    with tracking.stage_run("train", {}) as run:
        pass
    with pytest.raises(RegistryError, match="carries no model"):
        registry.register_bundle(run.run_id, bundle, "train", {})


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("models:/songcast/9", "no such version"),
        ("models:/songcast@prod", "no version carries the alias 'prod'"),
        ("models:/other@champion", "not a model of this registry"),
        ("models:/songcast/latest", "not a model of this registry"),
        ("songcast", "not a model of this registry"),
    ],
)
def test_a_uri_that_names_nothing_is_refused_in_one_line(repository, uri, message):
    with pytest.raises(RegistryError, match=message) as caught:
        registry_files.resolve(uri)
    assert "\n" not in str(caught.value)


def test_a_version_resolves_to_its_bundle_also_after_a_move(repository, tmp_path, monkeypatch):
    outputs(repository)
    registered(repository)
    moved = repository.rename(tmp_path / "there")
    use_repository(moved, monkeypatch)
    for uri, kind in (("models:/songcast@champion", "retrain"), ("models:/songcast/1", "train")):
        folder = registry_files.resolve(uri)
        assert folder.is_relative_to(moved)
        assert weights_of(folder) == weights_of(moved / "models" / kind)


def test_altered_artifacts_are_not_served(repository):
    outputs(repository)
    registered(repository)
    folder = registry_files.resolve("models:/songcast@champion")
    make_bundle(folder, 99.0)  # a sound bundle, but not the one that was registered
    with pytest.raises(BundleError, match="not those that were registered"):
        registry_files.resolve("models:/songcast@champion")
    (folder / "arrays.npz").write_bytes(b"altered")
    with pytest.raises(BundleError, match="altered"):
        registry_files.resolve("models:/songcast@champion")


def test_missing_outputs_end_the_stage_with_one_line_and_2(repository, capsys):
    assert register.main() == 2
    outputs(repository)
    (repository / "models" / "train" / "bundle.json").unlink()
    assert register.main() == 2
    outputs(repository)
    write_evaluation(repository, evaluation_of(ridge=numbers(7.0), train=numbers(6.0)))
    assert register.main() == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert "evaluation.json: missing" in lines[0]
    assert "bundle.json is missing" in lines[1]
    assert "says nothing about retrain" in lines[2]
    assert not (repository / "registered.json").exists()


class _Nine:
    """Predicts nine tenths of every sample: 20 dB."""

    def forecast(self, song):
        bits = np.full(song.samples.shape, 5.0)
        return Forecast(samples=song.samples, mean=song.samples * 0.9, bits=bits)


@pytest.fixture
def served(repository, monkeypatch):
    outputs(repository)
    registered(repository)
    loaded = []
    monkeypatch.setattr(
        songcast, "load", lambda path: loaded.append(path) or _Nine(), raising=False
    )
    monkeypatch.setattr(sys, "path", list(sys.path))  # MLflow prepends the model's own code
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_store.tracking_uri())
    mlflow = tracking_store.import_mlflow()
    model = mlflow.pyfunc.load_model("models:/songcast@champion")
    assert weights_of(registry_files.resolve("models:/songcast@champion")) == weights_of(
        repository / "models" / "retrain"
    )
    assert str(loaded[0]).endswith("artifacts/retrain")
    return model


def test_the_served_model_answers_each_song(served):
    songs = {"song": [example_song()] * 2}
    rows = served.predict(pd.DataFrame(songs), params={"format": "flac"})
    assert served.predict(songs, params={"format": "flac"}) == rows
    assert len(rows) == 2
    json.dumps(rows)
    assert rows[0]["prediction_gain_db"] == pytest.approx([20.0], abs=0.1)
    assert rows[0]["bits_per_sample"] == 5.0
    assert rows[0]["sample_rate_hz"] == 16_000
    heard, sent = decode_song(rows[0]["audio"], "x"), decode_song(example_song(), "y")
    assert base64.b64decode(rows[0]["audio"]).startswith(b"fLaC")
    np.testing.assert_array_equal(heard.samples, np.rint(sent.samples * 0.9).astype(np.int16))
    (scored,) = served.predict({"song": example_song()}, params={"task": "score"})
    assert (scored["audio"], scored["format"]) == (None, None)
    assert scored["prediction_gain_db"] == rows[0]["prediction_gain_db"]


def test_the_clients_mistake_comes_back_as_invalid_parameter(served):
    mlflow = tracking_store.import_mlflow()
    for song, params, message in (
        (example_song(), {"task": "continue"}, "not available in this version"),
        (example_song(), {"task": "sing"}, "task is 'sing': must be one of"),
        (example_song(), {"format": "aiff"}, "format is 'aiff': must be one of"),
        ("###", {}, "song 0: not base64"),
        ("", {}, "song 0: empty"),
        (base64.b64encode(b"just text").decode(), {}, "song 0"),
    ):
        with pytest.raises(mlflow.MlflowException, match=message) as caught:
            served.predict(pd.DataFrame({"song": [song]}), params=params)
        assert caught.value.error_code == "INVALID_PARAMETER_VALUE"
        assert "/tmp" not in str(caught.value)


@pytest.mark.parametrize(
    ("start", "suffix"),
    [
        (b"RIFF....WAVE", ".wav"),
        (b"fLaC", ".flac"),
        (b"OggS", ".ogg"),
        (b"ID3\x03", ".mp3"),
        (b"\xff\xfb\x90", ".mp3"),
        (b"\xff\xf3\x40", ".mp3"),
        (b"\xff\xf1\x50", ".aac"),
        (b"\x00\x00\x00\x20ftypM4A ", ".m4a"),
        (b"hello", ".bin"),
        (b"\xff", ".bin"),
    ],
)
def test_the_first_bytes_tell_the_format(start, suffix):
    assert suffix_of(start) == suffix


def test_a_song_that_cannot_be_read_names_itself_not_our_scratch_file():
    with pytest.raises(AudioError, match=r"^mine") as caught:
        decode_song(base64.b64encode(b"RIFF").decode(), "mine")
    assert "/tmp" not in str(caught.value)

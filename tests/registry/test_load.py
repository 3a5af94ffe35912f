"""From a name to a forecaster, or to one clear line."""

import numpy as np
import pytest

import songcast
from helpers.mlflow_store import make_bundle, use_repository
from helpers.small_models import music, notebook, randomised, ridge, song
from songcast.errors import BundleError, SongcastError


@pytest.mark.parametrize("name", ["persistence", "cascade"])
def test_forecasters_that_need_no_fit_are_there_at_once(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert songcast.load(name).name == name


@pytest.mark.parametrize("kind", ["ridge", "notebook", "lstm"])
def test_a_bundle_folder_gives_its_forecaster_by_path_or_text(kind, tmp_path):
    model = {
        "ridge": ridge,
        "notebook": lambda: notebook("relu"),
        "lstm": lambda: randomised("cascade"),
    }[kind]()
    model.save(tmp_path / "bundle", {})
    x = song(music(200, 2))
    expected = model.forecast(x)
    for uri in (tmp_path / "bundle", str(tmp_path / "bundle"), f"{tmp_path}/bundle/"):
        loaded = songcast.load(uri)
        assert loaded.name == kind
        np.testing.assert_array_equal(loaded.forecast(x).bits, expected.bits)


def test_ridge_is_the_one_of_the_repository_from_any_folder_of_it(tmp_path, monkeypatch):
    monkeypatch.delenv("DVC_ROOT", raising=False)
    (tmp_path / "dvc.yaml").touch()
    ridge().save(tmp_path / "models" / "ridge", {})
    (tmp_path / "some" / "where").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "some" / "where")
    assert songcast.load("ridge").name == "ridge"
    with pytest.raises(BundleError, match=r"models/notebook: no model bundle here"):
        songcast.load("notebook")


@pytest.mark.parametrize("uri", ["models/nothing", "", "cascad", "a\nb", "~"])
def test_what_is_no_model_is_one_clear_line(uri, tmp_path, monkeypatch):
    use = tmp_path / "empty"
    use.mkdir()
    monkeypatch.chdir(use)
    with pytest.raises(SongcastError, match="no model bundle here"):
        songcast.load(uri)


def test_a_bundle_of_an_unknown_kind_says_which_kinds_there_are(tmp_path):
    make_bundle(tmp_path / "model", 1.0)
    with pytest.raises(BundleError, match=r"unknown kind of bundle 'fake'.*ridge, notebook, lstm"):
        songcast.load(tmp_path / "model")


@pytest.mark.parametrize("kind", ["ridge", "lstm"])
def test_an_altered_bundle_is_not_used(kind, tmp_path):
    model = ridge() if kind == "ridge" else randomised("cascade")
    model.save(tmp_path / "model", {})
    file = tmp_path / "model" / "weights.safetensors"
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(BundleError, match=f"{file.name}: missing or altered"):
        songcast.load(tmp_path / "model")


def test_a_version_that_is_not_registered_is_one_clear_line(tmp_path, monkeypatch):
    use_repository(tmp_path, monkeypatch)
    for uri in ("models:/songcast@champion", "models:/songcast/7"):
        with pytest.raises(SongcastError) as caught:
            songcast.load(uri)
        assert "\n" not in str(caught.value)


def test_more_than_two_channels_are_refused_with_what_to_do():
    wide = song(np.zeros((10, 3), np.int16), "wide")
    for model in (songcast.load("persistence"), randomised("none")):
        with pytest.raises(SongcastError, match=r"wide: has 3 channels, .*; mix it down"):
            model.forecast(wide)

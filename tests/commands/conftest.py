"""An empty repository for every command, and a song in it."""

import os

import pytest

from songcast.audio.songs import write_song
from songcast.forecasting import keras_backend


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty repository without a registry."""
    (tmp_path / "dvc.yaml").touch()
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in keras_backend.ENVIRONMENT:
        monkeypatch.setenv(name, os.environ.get(name, keras_backend.ENVIRONMENT[name]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def song(folder, make_song):
    write_song(make_song(3000), folder / "song.wav")
    return "song.wav"

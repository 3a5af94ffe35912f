"""The served model follows its alias; a version that cannot be loaded is not served."""

import gc
import threading
import time
import weakref
from types import SimpleNamespace

import numpy as np
import pytest

from helpers.serving_models import Echo, running
from helpers.waiting import wait_until
from songcast.audio.songs import write_song
from songcast.errors import BundleError
from songcast.serving import champion as champion_module
from songcast.serving.app import create_app
from songcast.serving.champion import Champion
from songcast.serving.jobs import Limits

URI = "models:/songcast@champion"


class FakeRegistry:
    """A registry with a movable alias; its models continue songs with their version number."""

    def __init__(self):
        self.champion = 1
        self.started = threading.Event()
        self.errors = {}

    def version(self, uri):
        return SimpleNamespace(
            number=self.champion,
            uri=f"models:/songcast/{self.champion}",
            evaluation={},
            lineage={},
            weights_sha256="ab",
        )

    def load(self, uri):
        number = int(uri[-1])
        if number in self.errors:
            raise self.errors[number]
        model = Echo()
        # A closure over the model: a reference cycle, as in a Keras network.
        model.stream_song = lambda song, **settings: self.blocks(model, song, number)
        return model

    def blocks(self, model, song, number):
        self.started.set()
        for _ in range(10):
            time.sleep(0.05)
            yield np.full((441, song.channels), number, np.int16)


@pytest.fixture
def registry(monkeypatch):
    registry = FakeRegistry()
    monkeypatch.setattr(champion_module, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(champion_module, "load", registry.load)
    monkeypatch.setattr("songcast.registry.versions.get_alias", lambda name: registry.champion)
    monkeypatch.setattr("songcast.registry.versions.find_version", registry.version)
    return registry


def test_a_replaced_model_is_freed(registry):
    champion = Champion(URI)
    replaced = weakref.ref(champion.current.model)
    registry.champion = 2
    gc.disable()
    try:
        assert champion.refresh()
    finally:
        gc.enable()
    assert replaced() is None


def test_the_model_follows_its_alias_and_requests_finish_with_the_model_they_started_with(
    registry, chord, tmp_path, caplog
):
    write_song(chord, tmp_path / "song.wav")
    content = (tmp_path / "song.wav").read_bytes()
    registry.errors[3] = BundleError("sha256 differs")
    received = {}
    with running(create_app(Champion(URI), Limits())) as client:

        def request(name):
            response = client.post("/continue", params={"seconds": 0.1}, content=content)
            received[name] = set(np.frombuffer(response.content[44:], "<i2"))

        def served_version():
            return client.get("/version").json()["version"]

        early = threading.Thread(target=request, args=("early",))
        early.start()
        assert registry.started.wait(300)
        registry.champion = 2
        wait_until(lambda: served_version() == 2)
        early.join()
        request("late")
        registry.champion = 3
        wait_until(lambda: "still serving version 2" in caplog.text)
        assert served_version() == 2
        request("after")
    assert received == {"early": {1}, "late": {2}, "after": {2}}
    assert caplog.text.count("sha256 differs") == 1


def test_an_unexpected_error_of_one_version_does_not_stop_the_reloads(registry, caplog):
    registry.errors[2] = KeyError("slow_units")
    with Champion(URI) as champion:
        registry.champion = 2
        wait_until(lambda: "still serving version 1: KeyError('slow_units')" in caplog.text)
        registry.champion = 4
        wait_until(lambda: champion.current.version == 4)

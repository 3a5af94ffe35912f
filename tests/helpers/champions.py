"""A registry with one champion for tests of commands. Not a test module."""

import songcast
from songcast.commands import loading
from songcast.registry.versions import Version


def use_champion(monkeypatch, evaluation=None):
    """Let the registry hold version 3, the champion: a model that repeats the last sample."""
    version = Version(
        number=3,
        kind="train",
        run_id="r1",
        source="",
        aliases=("champion",),
        created_ms=0,
        tags={},
    )
    version.__dict__["lineage"] = {"weights_sha256": "ab", "evaluation": evaluation}
    monkeypatch.setattr(loading, "has_registry", lambda: True)
    found = [version], {"champion": 3}
    monkeypatch.setattr("songcast.registry.versions.read_registry", lambda *_: found)
    load = songcast.load

    def load_fake(uri):
        return load("persistence" if uri == "models:/songcast@champion" else uri)

    monkeypatch.setattr(loading, "load", load_fake)

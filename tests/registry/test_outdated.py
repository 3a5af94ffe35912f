"""registered.json is removed exactly when the registry in use lacks a version that it names."""

import json
import shutil
import subprocess
import sys

import pytest

from helpers.mlflow_store import use_repository
from songcast.registry import outdated
from songcast.registry.aliases import ensure_model
from songcast.tracking import store as tracking_store

URI = "http://ada:secret@127.0.0.1:9"


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository whose embedded registry holds versions 1 and 2."""
    folder = use_repository(tmp_path / "here", monkeypatch)
    client = tracking_store.connect()
    ensure_model(client)
    for _ in range(2):
        client.create_model_version("songcast", source="here")
    return folder


def write(folder, **changes):
    content = {"versions": {"train": 1, "retrain": 2}, "challenger": 2, "champion": None}
    text = json.dumps({"store": "embedded", **content, **changes})
    (folder / "registered.json").write_text(text)


def kept(folder):
    outdated.main()
    return (folder / "registered.json").exists()


def test_the_file_is_kept_while_its_versions_exist(repository, tmp_path, monkeypatch):
    write(repository)
    assert kept(repository)
    write(repository, champion=1)
    assert kept(repository)
    moved = repository.rename(tmp_path / "there")
    use_repository(moved, monkeypatch)
    assert kept(moved)


def test_the_file_is_removed_when_a_version_is_missing_or_the_file_is_unreadable(repository):
    for change in ({"champion": 3}, {"challenger": 3}, {"versions": {"train": 7}}, {"store": "x"}):
        write(repository, **change)
        assert not kept(repository), change
    for text in ("", "{", "[]", "{}"):
        (repository / "registered.json").write_text(text)
        assert not kept(repository), text
    tracking_store.connect().delete_model_version("songcast", "1")
    write(repository)
    assert not kept(repository)
    assert not kept(repository)  # nothing to remove


def test_the_file_is_removed_when_the_store_was_deleted_or_is_broken(repository):
    (repository / "mlruns" / "mlflow.db").write_text("not a database")
    write(repository)
    assert not kept(repository)
    shutil.rmtree(repository / "mlruns")
    write(repository)
    assert not kept(repository)
    assert not (repository / "mlruns").exists()


def test_another_store_is_recognised_without_a_request_and_without_credentials(
    repository, monkeypatch
):
    write(repository)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", URI)
    assert outdated.store_name() == "http://127.0.0.1:9"
    assert not kept(repository)
    write(repository, store=outdated.store_name(), champion=99)
    assert kept(repository)
    other = repository / "other.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{other}")
    assert not kept(repository)


def test_it_runs_as_a_program_and_does_not_import_mlflow(repository):
    write(repository, champion=3)
    code = "import sys; from songcast.registry import outdated; outdated.main()"
    code += "; print('mlflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert not (repository / "registered.json").exists()

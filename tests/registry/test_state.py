"""The registry decides what is registered; registered.json is only believed where it agrees."""

import json
import shutil
import subprocess
import sys

import pytest

from helpers.mlflow_store import use_repository
from songcast.registry import state
from songcast.registry.versions import ensure_model
from songcast.tracking import store as tracking_store

URI = "http://ada:secret@127.0.0.1:9"


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository whose embedded registry holds versions 1 and 2, of one run."""
    folder = use_repository(tmp_path / "here", monkeypatch)
    client = tracking_store.connect()
    ensure_model(client)
    run = client.create_run(tracking_store.experiment_id(client)).info.run_id
    for _ in range(2):
        client.create_model_version("songcast", source="here", run_id=run)
    client.set_registered_model_alias("songcast", "challenger", "2")
    write(folder)
    return folder


def write(folder):
    content = {
        "versions": {"train": 1, "retrain": 2},
        "challenger": 2,
        "champion": None,
        "store": "embedded",
        "inputs": "a",
    }
    (folder / "registered.json").write_text(json.dumps(content))


def current(folder, inputs="a"):
    return state.is_current(folder / "registered.json", inputs)


def test_the_file_is_current_while_the_registry_agrees_also_after_a_move(
    repository, tmp_path, monkeypatch
):
    assert current(repository)
    assert not current(repository, "other files")
    assert not current(repository, None)
    moved = repository.rename(tmp_path / "there")
    use_repository(moved, monkeypatch)
    assert current(moved)


@pytest.mark.parametrize(
    "deletion",
    [
        lambda client, run: client.delete_model_version("songcast", "1"),
        lambda client, run: client.delete_registered_model("songcast"),
        lambda client, run: client.delete_registered_model_alias("songcast", "challenger"),
        lambda client, run: client.set_registered_model_alias("songcast", "champion", "1"),
        lambda client, run: client.delete_run(run),
    ],
)
def test_the_file_is_outdated_after_a_change_in_mlflow(repository, deletion):
    client = tracking_store.connect()
    run = client.get_model_version("songcast", "1").run_id
    deletion(client, run)
    assert not current(repository)


def test_the_file_is_outdated_without_its_store_and_if_it_is_unreadable(repository, monkeypatch):
    (repository / "mlruns" / "mlflow.db").rename(repository / "other.db")
    assert not current(repository)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{repository}/other.db")
    assert not current(repository)  # the same versions in another store
    shutil.rmtree(repository / "mlruns")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert not current(repository)
    assert not (repository / "mlruns").exists()
    for text in ("", "{", "[]", "{}"):
        (repository / "registered.json").write_text(text)
        assert not current(repository), text


def test_a_store_is_named_without_credentials(repository, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", URI)
    assert state.store_name() == "http://127.0.0.1:9"


def test_the_inputs_are_the_files_that_the_stage_depends_on(repository):
    (repository / "dvc.yaml").write_text("stages: {register: {deps: [one.json, models]}}")
    assert state.digest_of_inputs(repository) is None
    (repository / "one.json").write_text("1")
    (repository / "models").mkdir()
    before = state.digest_of_inputs(repository)
    (repository / "two.json").write_text("2")
    assert state.digest_of_inputs(repository) == before
    (repository / "models" / "new.json").write_text("3")
    assert state.digest_of_inputs(repository) not in (before, None)


def test_the_embedded_registry_is_read_without_mlflow(repository):
    code = "import sys; from songcast.registry import versions; print(versions.read_registry()[1])"
    code += "; print('mlflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "{'challenger': 2}\nFalse\n"

"""The registry on an MLflow server with PostgreSQL and proxied artifacts.

Needs Debian's `postgresql`; skipped otherwise.
"""

import base64
import contextlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from helpers.mlflow_store import evaluation_of, make_bundle, numbers, write_evaluation
from helpers.serving_models import free_port, songcast_serve
from helpers.small_models import music, randomised
from helpers.small_models import song as song_of
from helpers.waiting import wait_until
from songcast import cli
from songcast.audio.songs import write_song
from songcast.errors import RegistryError
from songcast.registry import promotion, versions
from songcast.registry.versions import find_version, get_alias, list_versions
from songcast.stages import register
from songcast.tracking import lineage

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1:]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BINARIES, reason="no PostgreSQL: apt-get install postgresql"),
    # TensorFlow's variables do not know NumPy 2's copy keyword; Keras asks them when it saves.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


@contextlib.contextmanager
def process(command, **options):
    """Run a server in its own process group; end it after the block."""
    with subprocess.Popen(command, start_new_session=True, **options) as server:
        try:
            yield server
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)


def reachable(url):
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(url, trust_env=False).status_code == 200
    return False


@pytest.fixture(scope="module")
def postgres(tmp_path_factory):
    """Run a database cluster in a temporary folder, not as root; yield its URI."""
    folder = tmp_path_factory.mktemp("postgres")
    user = {}
    if os.getuid() == 0:
        names = {entry.pw_name for entry in pwd.getpwall()}
        account = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
        user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        folder = Path("/tmp") / f"songcast-postgres-{os.getpid()}"
        folder.mkdir()
        os.chown(folder, account.pw_uid, account.pw_gid)
    data, port = folder / "data", free_port()
    initdb = [BINARIES[0] / "initdb", "-D", data, "-U", "mlflow", "-A", "trust", "-E", "UTF8"]
    subprocess.run(initdb, check=True, capture_output=True, cwd="/", **user)
    command = [BINARIES[0] / "postgres", "-D", data, "-p", str(port)]
    command += ["-k", str(folder), "-h", "127.0.0.1"]
    log = (folder / "postgres.log").open("wb")
    try:
        with log, process(command, cwd="/", stdout=log, stderr=log, **user) as server:
            ready = [BINARIES[0] / "pg_isready", "-h", "127.0.0.1", "-p", str(port)]
            wait_until(
                lambda: subprocess.run(ready, capture_output=True).returncode == 0,
                while_true=lambda: server.poll() is None,
            )
            yield f"postgresql+psycopg2://mlflow@127.0.0.1:{port}/postgres"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def server(postgres, tmp_path_factory):
    """Run `mlflow server` with proxied artifacts; yield its URL."""
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", postgres]
    command += ["--artifacts-destination", str(folder / "artifacts"), "--port", str(port)]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    with (
        (folder / "log").open("wb") as log,
        process([*command, "--workers", "2"], stdout=log, stderr=log, env=environment) as mlflow,
    ):
        wait_until(lambda: reachable(f"{url}/health"), while_true=lambda: mlflow.poll() is None)
        yield url


@pytest.fixture(scope="module")
def repository(server, tmp_path_factory):
    """Two trained bundles and their evaluation, registered on the server."""
    folder = tmp_path_factory.mktemp("repository")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        monkeypatch.setenv("DVC_ROOT", str(folder))
        monkeypatch.chdir(folder)
        (folder / "dvc.yaml").touch()
        (folder / "params.yaml").write_text("train: {seed: 3}\n")
        for seed, kind in enumerate(("train", "retrain")):
            model = randomised(seed=seed)
            details = {"sample_rate_hz": 44100, "channels": 2, "provenance": lineage.provenance()}
            model.save(folder / "models" / kind, details)
        entries = {"ridge": numbers(7.0), "train": numbers(6.0), "retrain": numbers(6.5)}
        write_evaluation(folder, evaluation_of(("a", "b"), **entries))
        register.main()
        yield folder


@pytest.fixture
def restored(repository):
    """Make version 1 champion again after the test."""
    yield repository
    if get_alias("champion") != 1:
        promotion.promote(1, why="restore", force=True)


def test_register_promote_pull_and_roll_back(restored, tmp_path, capfd):
    assert json.loads((restored / "registered.json").read_text())["champion"] == 1
    versions = list_versions()
    register.main()
    assert list_versions() == versions
    with pytest.raises(RegistryError, match="not better than the champion"):
        promotion.promote(2)
    assert cli.main(["promote", "2", "--force", "--reason", "to see"]) == 0
    assert cli.main(["rollback", "--reason", "seen"]) == 0
    assert get_alias("champion") == 1
    capfd.readouterr()
    assert cli.main(["history", "--json"]) == 0
    history = json.loads(capfd.readouterr().out)["history"]
    assert [(m["action"], m["before"], m["after"]) for m in history[:2]] == [
        ("rollback", 2, 1),
        ("promote", 1, 2),
    ]
    out = tmp_path / "mine"
    assert cli.main(["pull", str(out)]) == 0
    result, title = (out / "model_card.md").read_text().split("\n\n")[:2]
    assert result == "**train, 6.000 bits per sample, 0.0 dB over ridge**"
    assert title == "# songcast, models:/songcast/1"
    assert cli.main(["trace", "models:/songcast@champion"]) == 0
    assert '{"train.seed": 3}' in capfd.readouterr().out


def test_serving_follows_the_champion_on_the_server(restored, tmp_path):
    path = tmp_path / "song.flac"
    write_song(song_of(music(20_000)), path)
    body = {"inputs": [base64.b64encode(path.read_bytes()).decode()]}

    def predicted(version):
        out = tmp_path / f"{version}.wav"
        model = f"models:/songcast/{version}"
        assert cli.main(["predict", str(path), "-o", str(out), "--model", model]) == 0
        return out.read_bytes()

    with songcast_serve() as (_, client):

        def served(version):
            wait_until(lambda: client.get("/version").json()["version"] == version)
            response = client.post("/invocations", json=body)
            assert response.status_code == 200, response.text
            return base64.b64decode(response.json()["predictions"][0]["audio"])

        assert served(1) == predicted(1)
        promotion.promote(2, why="to listen to it", force=True)
        assert served(2) == predicted(2) != predicted(1)
        promotion.rollback()
        assert served(1) == predicted(1)


def test_altered_files_on_the_server_are_not_loaded(restored, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    version = find_version("models:/songcast/2")
    fake = make_bundle(tmp_path / "retrain", 5.0)
    files = versions.repository(version)
    for file in fake.iterdir():
        files.log_artifact(str(file), "artifacts/retrain")
    assert cli.main(["pull", "models:/songcast/2", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()

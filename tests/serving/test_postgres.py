"""The same on a real MLflow server: PostgreSQL behind it, artifacts through it.

Wants Debian's `postgresql`; skipped, saying so, without.
Run it with: `python -m pytest -m slow tests/serving/test_postgres.py`.
"""

import base64
import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from helpers.mlflow_store import evaluation_of, make_bundle, numbers, write_evaluation
from helpers.small_models import music, randomised
from helpers.small_models import song as song_of
from songcast import cli
from songcast.audio.songs import write_song
from songcast.errors import RegistryError
from songcast.registry import downloads, promotion
from songcast.registry.aliases import get_alias
from songcast.registry.versions import find_version, list_versions
from songcast.stages import register

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1:]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BINARIES, reason="no PostgreSQL: apt-get install postgresql"),
    # TensorFlow's variables do not know NumPy 2's copy keyword; Keras asks them when it saves.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def process(command, **options):
    """Run a server in its own group; end it with the block."""
    with subprocess.Popen(command, start_new_session=True, **options) as server:
        try:
            yield server
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)


def wait_for(answers, server, seconds=120):
    deadline = time.monotonic() + seconds
    while not answers():
        assert server.poll() is None, "the server ended by itself"
        assert time.monotonic() < deadline
        time.sleep(0.3)


def reachable(url):
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(url, trust_env=False).status_code == 200
    return False


@pytest.fixture(scope="module")
def postgres(tmp_path_factory):
    """A database cluster in a scratch folder; it refuses to run as root."""
    folder = tmp_path_factory.mktemp("postgres")
    user = {}
    if os.getuid() == 0:
        who = pwd.getpwnam(
            "postgres" if "postgres" in {p.pw_name for p in pwd.getpwall()} else "nobody"
        )
        user = {"user": who.pw_uid, "group": who.pw_gid, "extra_groups": []}
        folder = Path("/tmp") / f"songcast-postgres-{os.getpid()}"
        folder.mkdir()
        os.chown(folder, who.pw_uid, who.pw_gid)
    data, port = folder / "data", free_port()
    initdb = [BINARIES[0] / "initdb", "-D", data, "-U", "mlflow", "-A", "trust", "-E", "UTF8"]
    subprocess.run(initdb, check=True, capture_output=True, cwd="/", **user)
    command = [
        BINARIES[0] / "postgres",
        "-D",
        data,
        "-p",
        str(port),
        "-k",
        str(folder),
        "-h",
        "127.0.0.1",
    ]
    said = (folder / "postgres.log").open("wb")
    try:
        with said, process(command, cwd="/", stdout=said, stderr=said, **user) as server:
            ready = [BINARIES[0] / "pg_isready", "-h", "127.0.0.1", "-p", str(port)]
            wait_for(lambda: subprocess.run(ready, capture_output=True).returncode == 0, server)
            yield f"postgresql+psycopg2://mlflow@127.0.0.1:{port}/postgres"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def server(postgres, tmp_path_factory):
    """`mlflow server` with proxied artifacts; gives its URL."""
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", postgres]
    command += ["--artifacts-destination", str(folder / "artifacts"), "--port", str(port)]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    with (
        (folder / "log").open("wb") as said,
        process([*command, "--workers", "2"], stdout=said, stderr=said, env=environment) as mlflow,
    ):
        wait_for(lambda: reachable(f"{url}/health"), mlflow)
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
            model.save(folder / "models" / kind, {"sample_rate_hz": 44100, "channels": 2})
        entries = {"ridge": numbers(7.0), "train": numbers(6.0), "retrain": numbers(6.5)}
        write_evaluation(folder, evaluation_of(("a", "b"), **entries))
        register.main()
        yield folder


@pytest.fixture
def restored(repository):
    """Version 1 is champion, whatever a test did."""
    yield repository
    if get_alias("champion") != 1:
        promotion.promote(1, why="as it was", force=True)


def test_register_promote_pull_and_roll_back(restored, tmp_path, capfd):
    assert json.loads((restored / "registered.json").read_text())["champion"] == 1
    again = list_versions()
    register.main()
    assert list_versions() == again
    with pytest.raises(RegistryError, match="not better than the champion"):
        promotion.promote(2)
    assert cli.main(["promote", "2", "--force", "--reason", "to see"]) == 0
    assert cli.main(["rollback", "--reason", "seen"]) == 0
    assert get_alias("champion") == 1
    capfd.readouterr()
    assert cli.main(["history", "--json"]) == 0
    said = json.loads(capfd.readouterr().out)["history"]
    assert [(m["action"], m["before"], m["after"]) for m in said[:2]] == [
        ("rollback", 2, 1),
        ("promote", 1, 2),
    ]
    out = tmp_path / "mine"
    assert cli.main(["pull", str(out)]) == 0
    assert (out / "model_card.md").read_text().startswith("# songcast, models:/songcast/1")
    assert cli.main(["trace", "models:/songcast@champion"]) == 0
    assert '{"train.seed": 3}' in capfd.readouterr().out


def test_of_many_promotions_at_once_exactly_one_wins(restored):
    start, results = threading.Barrier(4), []

    def task():
        start.wait()
        try:
            results.append(promotion.promote(2, why="race", force=True).after)
        except RegistryError as error:
            results.append(str(error))

    before = len(promotion.history())
    threads = [threading.Thread(target=task) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results.count(2) == 1, results
    assert all(r == 2 or "meanwhile" in r or "right now" in r or "already" in r for r in results)
    assert len(promotion.history()) == before + 1


def test_serving_follows_the_champion_on_the_server(restored, tmp_path):
    path = tmp_path / "song.flac"
    write_song(song_of(music(20_000)), path)
    body = {"inputs": [base64.b64encode(path.read_bytes()).decode()]}
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "songcast.cli", "serve", "--port", str(port)]
    with process(command) as server, httpx.Client(trust_env=False, timeout=120) as client:
        wait_for(lambda: reachable(f"{url}/ping"), server)

        def audio():
            answer = client.post(f"{url}/invocations", json=body)
            assert answer.status_code == 200, answer.text
            return base64.b64decode(answer.json()["predictions"][0]["audio"])

        def predicted(version):
            out = tmp_path / f"{version}.wav"
            model = f"models:/songcast/{version}"
            assert cli.main(["predict", str(path), "-o", str(out), "--model", model]) == 0
            return out.read_bytes()

        def serves(version):
            return lambda: client.get(f"{url}/version").json()["version"] == version

        assert audio() == predicted(1)
        promotion.promote(2, why="to hear it", force=True)
        wait_for(serves(2), server)
        assert audio() == predicted(2) != predicted(1)
        promotion.rollback()
        wait_for(serves(1), server)
        assert audio() == predicted(1)
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=60) == 0


def test_altered_files_on_the_server_are_not_loaded(restored, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    found = find_version("models:/songcast/2")
    fake = make_bundle(tmp_path / "retrain", 5.0)
    repository = downloads._repository(found)
    for file in fake.iterdir():
        repository.log_artifact(str(file), "artifacts/retrain")
    assert cli.main(["pull", "models:/songcast/2", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()

"""Real processes: `mlflow models serve` and `songcast serve` on a real registered network."""

import base64
import importlib.metadata
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time

import httpx
import pytest

from helpers.mlflow_store import evaluation_of, numbers, use_repository, write_evaluation
from helpers.small_models import music, randomised
from helpers.small_models import song as song_of
from songcast import cli
from songcast.audio.songs import write_song
from songcast.registry import files as registry_files
from songcast.registry.mlflow_model import requirements
from songcast.stages import register

pytestmark = [
    pytest.mark.slow,
    # TensorFlow's variables do not know NumPy 2's copy keyword; Keras asks them when it saves.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A registered champion with a small network, and songs to ask about."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = use_repository(tmp_path_factory.mktemp("here"), monkeypatch)
        for seed, kind in enumerate(("train", "retrain")):
            details = {"sample_rate_hz": 44100, "channels": 2}
            randomised(seed=seed).save(folder / "models" / kind, details)
        entries = {"ridge": numbers(7.0), "train": numbers(6.0), "retrain": numbers(6.5)}
        write_evaluation(folder, evaluation_of(("a", "b"), **entries))
        register.main()
        for suffix in ("wav", "mp3", "flac"):
            write_song(song_of(music(30_000)), folder / f"song.{suffix}")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlruns/mlflow.db")
        yield folder


@pytest.fixture(scope="module", params=["songcast", "mlflow"])
def server(request, repository):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    champion = ["mlflow", "models", "serve", "-m", "models:/songcast@champion"]
    serve = {
        "songcast": ["songcast.cli", "serve", "--port", port],
        "mlflow": [*champion, "--env-manager", "local", "-p", port],
    }[request.param]
    command = [sys.executable, "-m", *serve]
    with (repository / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300, trust_env=False) as client:
        deadline = time.monotonic() + 300
        while not answers(client):
            assert process.poll() is None, (repository / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.5)
        yield client
    os.killpg(process.pid, signal.SIGTERM)
    code = process.wait(timeout=60)
    assert request.param == "mlflow" or code == 0


def answers(client):
    try:
        return client.get("/ping").status_code == 200
    except httpx.HTTPError:
        return False


@pytest.mark.parametrize("suffix", ["wav", "mp3", "flac"])
def test_the_predicted_wav_is_that_of_songcast_predict(server, repository, suffix):
    path, out = repository / f"song.{suffix}", repository / "predicted.wav"
    text = base64.b64encode(path.read_bytes()).decode()
    answer = server.post("/invocations", json={"dataframe_records": [{"song": text}]})
    assert answer.status_code == 200, answer.text
    (row,) = answer.json()["predictions"]
    assert cli.main(["predict", str(path), "-o", str(out)]) == 0
    assert base64.b64decode(row["audio"]) == out.read_bytes()
    assert len(row["prediction_gain_db"]) == 2


def test_requests_under_way_are_answered_before_the_server_ends(repository):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "songcast.cli", "serve", "--port", port]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300, trust_env=False) as client,
    ):
        assert process.stdout.readline().startswith("songcast is serving at")
        path = repository / "long.wav"
        write_song(song_of(music(300_000)), path)
        body = json.dumps({"inputs": [base64.b64encode(path.read_bytes()).decode()]})
        ask = [sys.executable, "-c", ASK, f"http://127.0.0.1:{port}/invocations"]
        with subprocess.Popen(
            ask, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as asking:
            asking.stdin.write(body)
            asking.stdin.close()
            while "songcast_requests_in_progress 1.0" not in client.get("/metrics").text:
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            assert asking.stdout.read() == "200"
        assert process.wait(timeout=60) == 0


ASK = textwrap.dedent("""
    import sys, urllib.request
    request = urllib.request.Request(
        sys.argv[1], sys.stdin.read().encode(), {"Content-Type": "application/json"}
    )
    print(urllib.request.urlopen(request, timeout=300).status, end="")
""")


def closure(names):
    """Return the names of all distributions that ``names`` bring along here."""
    found, queue = set(), [canonical(name) for name in names]
    while queue:
        name = queue.pop()
        if name in found:
            continue
        found.add(name)
        try:
            wanted = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        queue += [
            canonical(re.match(r"[\w.-]+", line)[0]) for line in wanted if "extra ==" not in line
        ]
    return found


def canonical(name):
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", name)[0]).lower()


def test_the_recorded_requirements_are_enough(repository):
    """A process that sees nothing but what the requirements bring loads and asks the model."""
    # songcast's own store is no scheme that MLflow knows without songcast: by folder.
    model = registry_files.resolve("models:/songcast@champion").parents[1]
    allowed = closure(requirements())
    homes = importlib.metadata.packages_distributions()
    hidden = sorted(
        module for module, dists in homes.items() if not {canonical(d) for d in dists} & allowed
    )
    hidden.remove("songcast")  # it travels with the model
    assert {"dvc", "librosa", "prometheus_client"} <= set(hidden)
    script = textwrap.dedent(f"""
        import base64, sys
        class Hide:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in {hidden!r}:
                    raise ModuleNotFoundError(name)
        sys.meta_path.insert(0, Hide())
        import mlflow.pyfunc
        model = mlflow.pyfunc.load_model({str(model)!r})
        song = base64.b64encode(open("song.mp3", "rb").read()).decode()
        for task in ("forecast", "score"):
            (row,) = model.predict({{"song": [song]}}, params={{"task": task, "format": "mp3"}})
            assert row["bits_per_sample"] > 0, row
    """)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True,
        text=True,
        env=environment,
        cwd=repository,
    )
    assert done.returncode == 0, done.stderr

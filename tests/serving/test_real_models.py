"""`songcast serve` and `mlflow models serve` as processes, with a registered network."""

import base64
import contextlib
import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time

import httpx
import pytest

from helpers.mlflow_store import evaluation_of, numbers, use_repository, write_evaluation
from helpers.serving_models import free_port, songcast_serve
from helpers.small_models import music, randomised
from helpers.small_models import song as song_of
from songcast import cli
from songcast.audio.songs import write_song
from songcast.registry import downloads
from songcast.registry.mlflow_model import requirements
from songcast.stages import register

pytestmark = [
    pytest.mark.slow,
    # TensorFlow's variables do not know NumPy 2's copy keyword; Keras asks them when it saves.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A repository with a small network as champion, and songs."""
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


@contextlib.contextmanager
def mlflow_serve(repository):
    """Run `mlflow models serve`; yield a client."""
    port = str(free_port())
    command = [sys.executable, "-m", "mlflow", "models", "serve"]
    command += ["-m", "models:/songcast@champion", "--env-manager", "local", "-p", port]
    with (repository / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300, trust_env=False) as client:
        deadline = time.monotonic() + 300
        while not is_running(client):
            assert process.poll() is None, (repository / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.5)
        yield client
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(timeout=60)


def is_running(client):
    try:
        return client.get("/ping").status_code == 200
    except httpx.HTTPError:
        return False


def test_both_servers_predict_the_wav_of_songcast_predict(repository):
    out = repository / "predicted.wav"
    with songcast_serve() as (_, client), mlflow_serve(repository) as mlflow_client:
        for suffix in ("wav", "mp3", "flac"):
            path = repository / f"song.{suffix}"
            assert cli.main(["predict", str(path), "-o", str(out)]) == 0
            song = base64.b64encode(path.read_bytes()).decode()
            for server in (client, mlflow_client):
                response = server.post("/invocations", json={"dataframe_records": [{"song": song}]})
                assert response.status_code == 200, response.text
                (row,) = response.json()["predictions"]
                assert base64.b64decode(row["audio"]) == out.read_bytes()
                assert len(row["prediction_gain_db"]) == 2


REQUEST = textwrap.dedent("""
    import sys, urllib.request
    request = urllib.request.Request(
        sys.argv[1], sys.stdin.read().encode(), {"Content-Type": "application/json"}
    )
    print(urllib.request.urlopen(request, timeout=300).status, end="")
""")


def test_requests_in_progress_are_finished_before_the_server_ends(repository):
    write_song(song_of(music(300_000)), repository / "long.wav")
    song = base64.b64encode((repository / "long.wav").read_bytes()).decode()
    with songcast_serve() as (process, client):
        request = [sys.executable, "-c", REQUEST, f"{client.base_url}/invocations"]
        with subprocess.Popen(
            request, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as requesting:
            requesting.stdin.write(json.dumps({"inputs": [song]}))
            requesting.stdin.close()
            while "songcast_requests_in_progress 1.0" not in client.get("/metrics").text:
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            assert requesting.stdout.read() == "200"
        assert process.wait(timeout=60) == 0


def closure(names):
    """Return the names of the distributions ``names`` and of all their dependencies."""
    distributions, queue = set(), [canonical(name) for name in names]
    while queue:
        name = queue.pop()
        if name in distributions:
            continue
        distributions.add(name)
        try:
            dependencies = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        queue += [canonical(line) for line in dependencies if "extra ==" not in line]
    return distributions


def canonical(name):
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", name)[0]).lower()


def test_the_recorded_requirements_are_sufficient(repository):
    """A process that can import only the requirements loads the model and predicts."""
    # songcast:/ URIs need songcast itself, so the model is loaded from its folder.
    model = downloads.resolve("models:/songcast@champion").parents[1]
    allowed = closure(requirements())
    modules = importlib.metadata.packages_distributions()
    hidden = sorted(
        module for module, homes in modules.items() if not {canonical(h) for h in homes} & allowed
    )
    hidden.remove("songcast")  # it is part of the model
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

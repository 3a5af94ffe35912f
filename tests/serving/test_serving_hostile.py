"""Broken songs through HTTP against a real `songcast serve`: refused or heard, never more."""

import base64
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter

import httpx
import psutil
import pytest

from helpers.mutated_songs import mutated_songs, short_songs
from helpers.small_models import ridge

# All of them: SONGCAST_MUTATED_UPLOADS=10000
COUNT = int(os.environ.get("SONGCAST_MUTATED_UPLOADS", "2000"))
CLIENTS, WARM_UP = 4, 200
GROWTH_BYTES = 64 * 2**20


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """`songcast serve` with a quick model; gives its process and its URL."""
    bundle = tmp_path_factory.mktemp("model") / "ridge"
    ridge().save(bundle, {})
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "songcast.cli", "serve", "--port", port]
    with subprocess.Popen([*command, "--model", str(bundle)], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline().startswith(b"songcast is serving at")
        yield psutil.Process(process.pid), f"http://127.0.0.1:{port}"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0


def resident_bytes(server):
    return sum(p.memory_info().rss for p in (server, *server.children(recursive=True)))


def send(url, contents):
    """Upload all ``contents`` with several clients at once; return how often each status came."""
    statuses, odd, lock = Counter(), [], threading.Lock()

    def client():
        with httpx.Client(base_url=url, timeout=300, trust_env=False) as http:
            while True:
                with lock:
                    content = next(contents, None)
                if content is None:
                    return
                song = base64.b64encode(content).decode()
                body = {"inputs": [song], "params": {"task": "score"}}
                answer = http.post("/invocations", json=body)
                statuses[answer.status_code] += 1
                if answer.status_code != 200 and not is_one_line(answer):
                    odd.append(answer.text)

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert odd == []
    return statuses


def is_one_line(answer):
    said = answer.json()
    return set(said) == {"error_code", "message"} and "\n" not in said["message"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_mutated_uploads_are_heard_or_refused_and_leave_the_server_as_it_was(server, tmp_path):
    process, url = server
    contents = mutated_songs(short_songs(tmp_path), seed=4)
    send(url, itertools.islice(contents, WARM_UP))
    before, decoders = resident_bytes(process), {p.pid for p in process.children()}
    statuses = send(url, itertools.islice(contents, COUNT))
    grown = resident_bytes(process) - before
    print(f"{dict(statuses)}, {before / 2**20:.0f} MB before, {grown / 2**20:+.1f} MB after")
    assert sum(statuses.values()) == COUNT
    assert set(statuses) <= {200, 413, 422}
    assert min(statuses[200], statuses[422]) > COUNT / 20  # they reach the decoders, and beyond
    assert grown < GROWTH_BYTES
    assert {p.pid for p in process.children()} == decoders  # none crashed or hung
    assert httpx.get(f"{url}/ping", trust_env=False).status_code == 200

"""`songcast serve` under load, on this machine.

Each client sends songs of five seconds, the next one as soon as the last is answered. Then they do
the same while the alias champion moves. The output has latencies, songs per second, memory and
the number of each status. Run it after `make run`:

    .venv/bin/python benchmarks/serving.py

With --observe, the same server runs with and without records and a shadow, in turns, with as many
clients as keep its workers busy. The output has the ratios of throughput and p99:

    .venv/bin/python benchmarks/serving.py --observe
"""

import argparse
import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import songcast
from songcast.audio.songs import Song

MOVE_EVERY_SECONDS = 10.0
REFUSED = (429, 503)


def main() -> int:
    arguments = parse_arguments()
    if arguments.observe:
        return observed(arguments)
    with copied_store(), served(arguments.model) as (url, server):
        bodies = list(songs(arguments.song_seconds))
        send(url, bodies[0])  # starts the decoder
        results: dict[str, Any] = {"still": load(url, server, bodies, arguments)}
        if not arguments.model:
            with moving_champion() as moves:
                results["moving"] = load(url, server, bodies, arguments)
            results["moving"]["moves"] = len(moves)
    if arguments.json:
        print(json.dumps(results, indent=2))
    else:
        for name, result in results.items():
            print(f"{name}: {describe(result)}")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=8, help="number of clients (8)")
    parser.add_argument("--seconds", type=float, default=60.0, help="duration of each load (60)")
    parser.add_argument("--song-seconds", type=float, default=5.0, help="length of a song (5)")
    parser.add_argument("--model", help="a bundle folder; the alias is then not moved")
    parser.add_argument("--observe", action="store_true", help="compare with records and shadow")
    parser.add_argument("--turns", type=int, default=4, help="of each kind with --observe (4)")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")
    return parser.parse_args()


def observed(arguments: argparse.Namespace) -> int:
    """Print load with records and shadow on and off, and the ratios of the medians of the turns."""
    turns: dict[str, list[dict[str, Any]]] = {"off": [], "on": []}
    from songcast.registry.versions import CHALLENGER, get_alias, list_versions, set_alias
    from songcast.tracking.store import connect

    with copied_store(), tempfile.TemporaryDirectory() as scratch:
        versions = {version.number for version in list_versions()}
        set_alias(connect(), CHALLENGER, max(versions - {get_alias("champion")}))
        for turn in range(2 * arguments.turns):
            mode = "on" if turn % 4 in (1, 2) else "off"  # off, on, on, off: equal on the mean
            os.environ["SONGCAST_RECORDS"] = str(Path(scratch) / "db") if mode == "on" else ""
            with served(arguments.model, mode == "on") as (url, server):
                bodies = list(songs(arguments.song_seconds))
                send(url, bodies[0])
                turns[mode].append(load(url, server, bodies, arguments))
                print(f"{mode}: {describe(turns[mode][-1])}", file=sys.stderr)
    ratios = {}
    for key in ("songs_per_second", "p50_seconds", "p99_seconds", "cpu_seconds_per_song"):
        medians = {mode: np.median([row[key] for row in rows]) for mode, rows in turns.items()}
        ratios[key] = float(medians["on"] / medians["off"])
    print(
        json.dumps({"on_over_off": ratios, "turns": turns} if arguments.json else ratios, indent=2)
    )
    return 0


def songs(seconds: float) -> Iterator[bytes]:
    """Yield requests with a passage from each song in data/, stereo and mono."""
    with tempfile.TemporaryDirectory() as scratch:
        for path in sorted(Path("data").glob("*.*")):
            if path.suffix not in (".wav", ".flac", ".ogg", ".mp3"):
                continue
            song = songcast.read_song(path)
            passage = Song(
                samples=song.samples[: round(seconds * song.sample_rate_hz)],
                sample_rate_hz=song.sample_rate_hz,
                name=song.name,
            )
            file = Path(scratch) / "song.flac"
            songcast.write_song(passage, file)
            text = base64.b64encode(file.read_bytes()).decode()
            yield json.dumps({"dataframe_records": [{"song": text}]}).encode()


def load(
    url: str, server: psutil.Process, bodies: list[bytes], arguments: argparse.Namespace
) -> dict[str, Any]:
    """Send requests from all clients for a while and return the measures."""
    answers: list[tuple[int, float]] = []
    memory: list[int] = []
    stop = time.monotonic() + arguments.seconds
    cpu, start = cpu_seconds(server), time.monotonic()

    def client(number: int) -> None:
        turn = number
        while time.monotonic() < stop:
            before = time.perf_counter()
            status = send(url, bodies[turn % len(bodies)])
            answers.append((status, time.perf_counter() - before))
            turn += 1
            if status in REFUSED:
                time.sleep(0.5)

    def watch() -> None:
        while time.monotonic() < stop:
            memory.append(private_bytes(server))
            time.sleep(1.0)

    threads = [threading.Thread(target=client, args=(n,)) for n in range(arguments.clients)]
    threads.append(threading.Thread(target=watch))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall = time.monotonic() - start
    latencies = [seconds for status, seconds in answers if status == 200]
    return {
        "statuses": dict(Counter(str(status) for status, _ in answers)),
        "seconds": wall,
        "songs_per_second": len(latencies) / wall,
        "cpu_seconds_per_song": (cpu_seconds(server) - cpu) / max(1, len(latencies)),
        "p50_seconds": float(np.quantile(latencies, 0.5)) if latencies else None,
        "p99_seconds": float(np.quantile(latencies, 0.99)) if latencies else None,
        "memory_mb": [memory[0] // 2**20, max(memory) // 2**20, memory[-1] // 2**20],
    }


def describe(result: dict[str, Any]) -> str:
    first, highest, last = result["memory_mb"]
    moves = f", champion moved {result['moves']} times" if "moves" in result else ""
    return (
        f"statuses {result['statuses']}, {result['songs_per_second']:.2f} songs per second, "
        f"p50 {result['p50_seconds']:.2f} s, p99 {result['p99_seconds']:.2f} s, "
        f"{result['cpu_seconds_per_song']:.2f} CPU seconds per song, "
        f"memory {first} MB at the start, {highest} at most, {last} at the end{moves}"
    )


def send(url: str, body: bytes) -> int:
    import httpx

    headers = {"content-type": "application/json"}
    try:
        answer = httpx.post(
            f"{url}/invocations", content=body, headers=headers, timeout=600, trust_env=False
        )
    except httpx.HTTPError as error:
        print(f"failed: {error!r}", file=sys.stderr)
        return 0
    return answer.status_code


@contextmanager
def copied_store() -> Iterator[None]:
    """Use a copy of the embedded store, whose history is for real promotions."""
    from songcast.tracking.embedded import database, sqlite_uri
    from songcast.tracking.store import tracking_uri

    file = database(tracking_uri())
    if file is None:
        raise SystemExit(
            "unset MLFLOW_TRACKING_URI: this benchmark does not move the champion of a server"
        )
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "mlruns"
        if file.is_file():
            shutil.copytree(file.parent, copy)
        os.environ["MLFLOW_TRACKING_URI"] = sqlite_uri(copy / file.name)
        yield


@contextmanager
def served(model: str | None, shadow: bool = False) -> Iterator[tuple[str, psutil.Process]]:
    """Run `songcast serve` and yield its URL and process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "songcast.cli", "serve", "--port", str(port)]
    command += ["--model", model] if model else []
    command += ["--shadow", "challenger"] if shadow else []
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as server:
        try:
            line = server.stdout.readline() if server.stdout else b""
            if not line:
                raise SystemExit("the server did not start")
            yield f"http://127.0.0.1:{port}", psutil.Process(server.pid)
        finally:
            os.killpg(server.pid, signal.SIGTERM)


@contextmanager
def moving_champion(every_seconds: float = MOVE_EVERY_SECONDS) -> Iterator[list[int]]:
    """Move the alias between the two newest versions within the block."""
    from songcast.registry import promotion
    from songcast.registry.versions import CHAMPION, get_alias, list_versions

    newest = [version.number for version in list_versions()[:2]]
    done = threading.Event()
    moves: list[int] = []

    def move() -> None:
        while not done.wait(every_seconds):
            number = next(n for n in newest if n != get_alias(CHAMPION))
            moves.append(promotion.promote(number, why="load", force=True).after)

    thread = threading.Thread(target=move)
    thread.start()
    try:
        yield moves
    finally:
        done.set()
        thread.join()


def private_bytes(server: psutil.Process) -> int:
    """Return the private memory of the server and its decoders in bytes.

    Shared pages of libraries are excluded, because the kernel loads and drops them at any time.
    """
    total = 0
    for process in (server, *server.children(recursive=True)):
        try:
            memory = process.memory_info()
            total += memory.rss - memory.shared
        except psutil.NoSuchProcess:
            continue
    return total


def cpu_seconds(server: psutil.Process) -> float:
    used = server.cpu_times()
    return float(used.user + used.system)


if __name__ == "__main__":
    sys.exit(main())

"""Memory of the commands and stages by the length of a song.

    .venv/bin/python benchmarks/memory.py TRACK...                    everything
    .venv/bin/python benchmarks/memory.py TRACK... --only score       some of it

Repeats the tracks to stereo wavs of 10 minutes, 1 hour and 3 hours. Runs each command on each of
them, and the stages in a folder with this song alone, with the params.yaml and models/ of this
repository. Training is cut short, because its memory does not grow with the number of steps, and
commands end after --limit seconds. Writes docs/memory.json.

A row has the largest resident memory of one process ("mb") and of all at once ("mb_in_all"), each
with the pages of mapped files, which the system drops when memory is short ("mb_mapped", of the
largest process at its peak). ``curve``: seconds and MB of all processes.
"""

import argparse
import json
import math
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import soundfile
import yaml

from songcast.audio.conversion import resampled
from songcast.audio.reading import open_song

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs" / "memory.json"
RATE_HZ = 44100
MINUTES = (10, 60, 180)
POLL_SECONDS = 0.05
CURVE_POINTS = 40
# Overrides of params.yaml: memory does not depend on the number of steps.
SHORT = {"epochs": 1, "steps_per_epoch": 10}
STAGES = (
    *("prepare", "baselines", "continuation", "train", "retrain"),
    *("evaluate_baselines", "evaluate", "report"),
)
COMMANDS = {
    "score": ["score", "{song}", "--model", "{models}/train"],
    "score --model persistence": ["score", "{song}", "--model", "persistence"],
    "predict": ["predict", "{song}", "-o", "out.wav", "--model", "{models}/train"],
    "predict --model persistence": ["predict", "{song}", "-o", "out.wav", "--model", "persistence"],
    "continue": ["continue", "{song}", "-o", "out.wav", "--seconds", "10", "--model",
                 "{models}/train"],
    "inspect": ["inspect", "{song}", "--model", "cascade"],
    "inspect --model persistence": ["inspect", "{song}", "--model", "persistence"],
}  # fmt: skip
SERVED_SECONDS = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the memory of commands and stages.")
    parser.add_argument("tracks", nargs="+", type=Path)
    parser.add_argument("--minutes", type=int, nargs="+", default=list(MINUTES))
    parser.add_argument("--only", nargs="+", help="commands and stages")
    parser.add_argument("--limit", type=float, default=240.0, help="seconds of a command")
    parser.add_argument("--scratch", type=Path, help="folder for the songs, 5 GB")
    parser.add_argument("--output", type=Path, default=TARGET)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        for minutes in arguments.minutes:
            home = Path(scratch) / str(minutes)
            new_project(home)
            song = home / "data" / f"{minutes}-minutes.wav"
            write_long_song(arguments.tracks, song, minutes * 60 * RATE_HZ)
            for name, command in programs(home, song):
                if arguments.only and name not in arguments.only:
                    continue
                limit = arguments.limit if name in COMMANDS else math.inf
                row = {"program": name, "minutes": minutes} | watched(command, home, limit)
                rows.append(row)
                print({k: v for k, v in row.items() if k != "curve"}, flush=True)
            shutil.rmtree(home)
            arguments.output.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


def new_project(home: Path) -> None:
    """Make a folder in which the stages run, with the models of this repository."""
    (home / "data").mkdir(parents=True)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for section in ("train", "retrain", "continuation"):
        params[section] |= SHORT
    params["baselines"]["notebook"]["epochs"] = 1
    (home / "params.yaml").write_text(yaml.safe_dump(params))
    for folder in ("models", "metrics"):
        shutil.copytree(ROOT / folder, home / folder)
    (home / "plots").mkdir()


def write_long_song(tracks: list[Path], path: Path, frames: int) -> None:
    """Write the tracks, again and again, as a stereo wav of so many frames."""
    with soundfile.SoundFile(path, "w", RATE_HZ, 2, "PCM_16") as file:
        while file.tell() < frames:
            for track in tracks:
                with open_song(track) as reader:
                    rate, channels = reader.sample_rate_hz, reader.channels
                    for block in resampled(reader.blocks(), rate, RATE_HZ, channels):
                        stereo = np.broadcast_to(block, (len(block), 2))
                        file.write(stereo[: frames - file.tell()])
                        if file.tell() == frames:
                            return


def programs(home: Path, song: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield each command and stage, in an order in which the stages find their inputs."""
    for stage in STAGES:
        yield stage, [sys.executable, "-m", f"songcast.stages.{stage}"]
    for name, words in COMMANDS.items():
        filled = [word.format(song=song, models=home / "models") for word in words]
        yield name, [sys.executable, "-m", "songcast.cli", *filled]
    yield "serve", [sys.executable, __file__, "--serve", str(song), str(home / "models" / "train")]


def watched(command: list[str], home: Path, limit: float) -> dict[str, Any]:
    """Run a command in ``home``, for ``limit`` seconds at most; return what it needed."""
    environment = {k: v for k, v in os.environ.items() if k != "DVC_ROOT"}
    environment |= {"MLFLOW_TRACKING_URI": f"sqlite:///{home}/mlruns.db"}
    began, curve, largest, mapped, in_all = time.perf_counter(), [], 0.0, 0.0, 0.0
    cpu: dict[int, float] = {}
    stopped = False
    with (
        (home / "log").open("wb") as log,
        subprocess.Popen(command, cwd=home, env=environment, stdout=log, stderr=log) as process,
    ):
        top = psutil.Process(process.pid)
        while process.poll() is None:
            total = 0.0
            for one in [top, *children(top)]:
                try:
                    memory, times = one.memory_info(), one.cpu_times()
                except psutil.NoSuchProcess:
                    continue
                cpu[one.pid] = times.user + times.system
                total += memory.rss / 1e6
                if memory.rss / 1e6 > largest:
                    largest, mapped = memory.rss / 1e6, memory.shared / 1e6
            in_all = max(in_all, total)
            seconds = time.perf_counter() - began
            curve.append((round(seconds, 1), round(total)))
            if seconds > limit and not stopped:
                stopped = True
                process.terminate()
            time.sleep(POLL_SECONDS)
    if process.returncode and not stopped:
        sys.exit(f"{command}: exit {process.returncode}\n{(home / 'log').read_text()}")
    step = max(len(curve) // CURVE_POINTS, 1)
    return {
        "mb": round(largest),
        "mb_mapped": round(mapped),
        "mb_in_all": round(in_all),
        "cpu_seconds": round(sum(cpu.values()), 1),
        "stopped": stopped,
        "curve": [curve[i] for i in range(0, len(curve), step)],
    }


def serve(song: str, model: str) -> None:
    """Start a server, send it the song as Vorbis, and read the forecast for ``SERVED_SECONDS``."""
    port = free_port()
    command = ["serve", "--port", str(port), "--model", model]
    server = subprocess.Popen([sys.executable, "-m", "songcast.cli", *command])
    url = f"http://127.0.0.1:{port}"
    upload = Path(song).with_suffix(".ogg")
    with (
        soundfile.SoundFile(song) as source,
        soundfile.SoundFile(upload, "w", RATE_HZ, 2, compression_level=0.9) as target,
    ):
        for block in source.blocks(65536, dtype="int16"):
            target.write(block)
    while server.poll() is None:
        try:
            httpx.get(f"{url}/ping")
            break
        except httpx.ConnectError:
            time.sleep(0.2)
    began = time.monotonic()
    with (
        upload.open("rb") as file,
        httpx.stream("POST", f"{url}/forecast", content=file, timeout=300) as response,
    ):
        print(upload.stat().st_size, response.status_code, flush=True)
        for _ in response.iter_raw(65536):
            if time.monotonic() - began > SERVED_SECONDS:
                break
    server.terminate()
    server.wait()
    upload.unlink()


def free_port() -> int:
    """Return a port that no program uses."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def children(process: psutil.Process) -> list[psutil.Process]:
    """Return all processes below one that may have ended."""
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(*sys.argv[2:])
    else:
        main()

"""CPU time of a forecast without a network: every stage of the wide filter bank, the stackings.

Seconds of CPU per second of audio on one thread, the least of ``--repeat`` runs. `flac -8ep` is
measured on the same samples if it is on PATH.

    .venv/bin/python benchmarks/filter_bank.py song.wav
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from songcast.audio.songs import Song, read_song, write_song
from songcast.forecasting.adaptation import BIAS_CHAIN
from songcast.forecasting.baselines import Cascade
from songcast.forecasting.filter_bank import FilterBank, StageFilters
from songcast.forecasting.filter_bank_settings import FilterBankSettings
from songcast.forecasting.stacking import Stacking
from songcast.report.console import print_json, print_table

Task = Callable[[], object]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("song", type=Path)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    # Numba's and SciPy's threads are pinned, and so is the pool of the filter bank.
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    song = excerpt(arguments.song, arguments.seconds)
    costs = measure(song, arguments.repeat)
    if arguments.json:
        print_json(costs)
    else:
        print_table(
            ["part", "CPU s per s"], [[part, f"{cost:.4f}"] for part, cost in costs.items()]
        )
    return 0


def excerpt(path: Path, seconds: float) -> Song:
    """Return ``seconds`` from the middle of the song."""
    song = read_song(path)
    frames = min(round(seconds * song.sample_rate_hz), len(song.samples))
    start = (len(song.samples) - frames) // 2
    samples = np.ascontiguousarray(song.samples[start : start + frames])
    return Song(samples=samples, sample_rate_hz=song.sample_rate_hz, name=song.name)


def measure(song: Song, repeat: int) -> dict[str, float]:
    """Return CPU seconds per second of audio for each part."""
    samples, channels = song.samples, song.samples.shape[1]
    audio_s = len(samples) / song.sample_rate_hz
    costs: dict[str, float] = {}

    def add(part: str, task: Task) -> None:
        task()  # compiles
        costs[part] = min(cpu_s(task) for _ in range(repeat)) / audio_s

    wide = FilterBankSettings.wide()
    seen = set()
    for number, chain in enumerate(wide.chains):
        residual = np.ascontiguousarray(samples.T, np.float32)
        for at, stage in enumerate(chain):
            if chain[: at + 1] not in seen:
                seen.add(chain[: at + 1])
                part = f"{number} {stage}"
                signal = residual
                add(part, lambda: StageFilters(stage, channels).predict(signal))  # noqa: B023
            residual = residual - StageFilters(stage, channels).predict(residual)
    for kind in ("ls", "lms"):
        parts = [
            cost for part, cost in costs.items() if part.split()[1].lstrip("w").startswith(kind)
        ]
        costs[f"all {kind}"] = sum(parts)
    noise = np.random.default_rng(0).normal(0, 1, (channels, len(samples))).astype(np.float32)
    for stage in BIAS_CHAIN:
        add(f"bias stage {stage}", lambda: StageFilters(stage, channels).predict(noise))  # noqa: B023
    means = FilterBank(channels, wide, threads=1).predict(samples)
    add("wide bank", lambda: FilterBank(channels, wide, threads=1).predict(samples))
    for experts in (len(FilterBankSettings().names), len(wide.names)):
        some = np.ascontiguousarray(means[..., :experts])
        add(f"stacking of {experts}", lambda: Stacking(channels, experts).combine(samples, some))  # noqa: B023
    add("cascade forecast", lambda: Cascade().forecast(song))
    if flac := shutil.which("flac"):
        with tempfile.TemporaryDirectory() as folder:
            wav = Path(folder) / "song.wav"
            write_song(song, wav)
            command = [flac, "-8ep", "-s", "-f", "-o", f"{folder}/song.flac", str(wav)]
            add("flac -8ep", lambda: subprocess.run(command, check=True))
    return costs


def cpu_s(task: Task) -> float:
    """Return the CPU time of ``task``, processes that it runs included."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    before = time.process_time() + children.ru_utime + children.ru_stime
    task()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime - before


if __name__ == "__main__":
    sys.exit(main())

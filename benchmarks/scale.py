"""How prepare grows: songs, workers, memory, against the bare decoder.

    .venv/bin/python benchmarks/scale.py            10, 100 and 1 000 songs: minutes
    .venv/bin/python benchmarks/scale.py --songs 10 100

Writes docs/scale.json and docs/scale.png and prints a Markdown table. Songs are generated: 30 s
of stereo noise, flac at 48 kHz, so that every one is decoded and resampled to 44.1 kHz. Seconds
are processor seconds of all processes together, which other programs on the machine disturb
little; the wall clock stands beside them.
"""

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from songcast.audio import Song, open_song, resampled, write_song

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SONG_SECONDS, SOURCE_HZ, TARGET_HZ = 30, 48000, 44100
POLL_SECONDS = 0.02

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how prepare grows.")
    parser.add_argument("--songs", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--scratch", type=Path, help="a folder on the disk to be measured")
    arguments = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        for songs in arguments.songs:
            home = Path(scratch) / str(songs)
            generate(home / "data", songs)
            shutil.copy(ROOT / "params.yaml", home)
            rows.append(measured(home, songs, 0))
            rows += [measured(home, songs, workers) for workers in (1, 2)]
            shutil.rmtree(home)
            print(table(rows), flush=True)
    DOCS.joinpath("scale.json").write_text(json.dumps(rows, indent=2) + "\n")
    draw(rows, DOCS / "scale.png")


def generate(folder: Path, songs: int) -> None:
    """Write the songs: passages of one noise, each from another frame on."""
    folder.mkdir(parents=True)
    frames = SONG_SECONDS * SOURCE_HZ
    noise = np.random.default_rng(0).normal(0, 600, (frames + songs, 2))
    noise[1:] += 0.9 * noise[:-1]
    amplitudes = np.rint(noise).astype(np.int16)
    for number in range(songs):
        song = Song(samples=amplitudes[number:][:frames], sample_rate_hz=SOURCE_HZ, name="noise")
        write_song(song, folder / f"song-{number:05d}.flac")


def measured(home: Path, songs: int, workers: int) -> Row:
    """Run the bare decoder (no workers) or prepare in a process of its own, and watch it."""
    shutil.rmtree(home / "prepared", ignore_errors=True)
    shutil.rmtree(home / "checkpoints", ignore_errors=True)
    command = [sys.executable, __file__, "--child", str(workers)]
    environment = {k: v for k, v in os.environ.items() if k != "DVC_ROOT"}
    start = time.perf_counter()
    with subprocess.Popen(command, cwd=home, env=environment) as process:
        cpu_seconds, peak_mb = watch(psutil.Process(process.pid))
    if process.returncode:
        sys.exit(f"{command}: exit {process.returncode}")
    return {
        "songs": songs,
        "workers": workers,
        "audio_hours": songs * SONG_SECONDS / 3600,
        "cpu_seconds": round(cpu_seconds, 2),
        "wall_seconds": round(time.perf_counter() - start, 2),
        "peak_mb_per_process": round(peak_mb),
    }


def watch(process: psutil.Process) -> tuple[float, float]:
    """Return the CPU seconds of the process and all its children, and the largest one's MB."""
    seconds: dict[int, float] = {}
    peak_bytes = 0
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        for one in [process, *process.children(recursive=True)]:
            try:
                times = one.cpu_times()
                peak_bytes = max(peak_bytes, one.memory_info().rss)
            except psutil.NoSuchProcess:
                continue
            seconds[one.pid] = times.user + times.system
        time.sleep(POLL_SECONDS)
    return sum(seconds.values()), peak_bytes / 1e6


def child(workers: int) -> None:
    """Do the work that is measured, in the current folder."""
    if workers == 0:
        for path in sorted(Path("data").iterdir()):
            with open_song(path) as reader:
                blocks = reader.blocks()
                for _ in resampled(blocks, reader.sample_rate_hz, TARGET_HZ, reader.channels):
                    pass
        return
    from songcast import engine
    from songcast.stages import prepare

    logging.basicConfig(level=logging.ERROR)
    engine.free_cores = lambda: workers
    prepare.main()


def table(rows: list[Row]) -> str:
    """Return the rows as Markdown; hours of audio per minute of one core."""
    lines = [
        "| songs | what | hours of audio per core minute | wall s | against the bare decoder "
        "| MB per process |",
        "|--:|---|--:|--:|--:|--:|",
    ]
    for row in rows:
        bare = next(r for r in rows if r["songs"] == row["songs"] and r["workers"] == 0)
        what = f"prepare, {row['workers']} workers" if row["workers"] else "bare decoder"
        lines.append(
            f"| {row['songs']} | {what} | {per_minute(row):.2f} | {row['wall_seconds']:.1f} | "
            f"{row['cpu_seconds'] / bare['cpu_seconds']:.2f} x | {row['peak_mb_per_process']} |"
        )
    return "\n".join(lines)


def per_minute(row: Row) -> float:
    """Hours of audio per minute of one core."""
    return float(row["audio_hours"] / row["cpu_seconds"] * 60)


def draw(rows: list[Row], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for workers, name in ((0, "bare decoder"), (1, "prepare, 1 worker"), (2, "prepare, 2 workers")):
        mine = [row for row in rows if row["workers"] == workers]
        hours = [row["audio_hours"] for row in mine]
        axes.loglog(hours, [row["cpu_seconds"] for row in mine], "o-", label=name)
    axes.set(xlabel="hours of audio", ylabel="processor seconds")
    axes.set_title("prepare grows with the songs, and stays near the bare decoder")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(int(sys.argv[2]))
    else:
        main()

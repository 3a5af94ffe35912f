"""Growth of time and memory with songs, workers and trials. Run it on an idle machine.

    .venv/bin/python benchmarks/scale.py                    everything
    .venv/bin/python benchmarks/scale.py --only prepare     this alone; the rest stays as it was
    .venv/bin/python benchmarks/scale.py --only             writes the page and the figure

Writes docs/scale.json, docs/scale.md and docs/scale.png. The songs are generated: 3 minutes of
stereo mp3 at 44.1 kHz. A thousand of them need 35 GB of disk. Each row is measured in a separate
process. CPU seconds are the sum over all its processes, which other programs on the machine affect
little; training is measured by the wall clock.
"""

import argparse
import json
import logging
import math
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from scale_report import BATCH_SIZE, draw, markdown
from songcast.audio.encoders import ffmpeg_program
from songcast.audio.reading import open_song

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SONG_SECONDS, RATE_HZ = 180, 44100
# Seconds of sound of which songs are put together.
SOURCE_SECONDS, BITS_PER_SECOND = 120, 128_000
POLL_SECONDS = 0.02
# Programs and workers; of many songs, the last one alone.
PROGRAMS = (("decode", 1), ("decode", 2), ("prepare", 1), ("prepare", 2))
MOST_SONGS = 100
TRAINING_SONGS, STEPS = 4, 60
# (workers, batch size): two workers share the batch of one, or use a batch twice as large.
GROUPS = ((1, BATCH_SIZE), (2, BATCH_SIZE), (2, 2 * BATCH_SIZE))
TRIALS = (2, 6)

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how songcast grows.")
    parser.add_argument("--songs", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--only", nargs="*", help="prepare, start, training, sweep, or none")
    parser.add_argument("--scratch", type=Path, help="a folder on the disk to measure")
    arguments = parser.parse_args()
    results = json.loads(DOCS.joinpath("scale.json").read_text())
    results |= {"song_seconds": SONG_SECONDS, "cores": len(os.sched_getaffinity(0))}
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
        scratch = Path(folder)
        parts: dict[str, Callable[[], list[Row]]] = {
            "prepare": lambda: [row for n in arguments.songs for row in prepare_rows(scratch, n)],
            "start": lambda: [measured(scratch, "start", what) for what in STARTS],
            "training": lambda: training_rows(scratch / "training"),
            "sweep": lambda: [measured(scratch, "sweep", trials) for trials in TRIALS],
        }
        results |= {
            name: parts[name]() for name in (parts if arguments.only is None else arguments.only)
        }
    DOCS.joinpath("scale.json").write_text(json.dumps(results, indent=2) + "\n")
    DOCS.joinpath("scale.md").write_text(markdown(results))
    draw(results, DOCS / "scale.png")
    print(DOCS.joinpath("scale.md").read_text())


def prepare_rows(scratch: Path, songs: int) -> list[Row]:
    """Measure the bare decoder in one and two processes, and prepare with as many workers."""
    home = scratch / str(songs)
    generate(home / "data", songs)
    shutil.copy(ROOT / "params.yaml", home)
    rows = []
    for what, workers in PROGRAMS if songs <= MOST_SONGS else PROGRAMS[-1:]:
        for name in ("prepared", "checkpoints"):
            shutil.rmtree(home / name, ignore_errors=True)
        row = measured(home, what, workers)
        known = {"what": what, "workers": row.pop(what), "songs": songs}
        known["audio_hours"] = songs * SONG_SECONDS / 3600
        sizes = {f"{name}_mb": megabytes(home / name) for name in ("data", "prepared")}
        rows.append(known | sizes | row)
    shutil.rmtree(home)
    return rows


def megabytes(folder: Path) -> float:
    """Return the size of the files in a folder."""
    return round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6, 1)


def training_rows(home: Path) -> list[Row]:
    """Measure steps of train on one and on two Ray workers of one core each."""
    generate(home / "data", TRAINING_SONGS)
    shutil.copy(ROOT / "params.yaml", home)
    measured(home, "prepare", 1)
    features = measured(home, "features", 1)
    rows = [measured(home, "train", f"{workers} {size}") for workers, size in GROUPS]
    key = "feature_cpu_per_audio_second"
    return [{**row, key: features[key]} for row in rows]


def generate(folder: Path, songs: int) -> None:
    """Write the songs: random seconds of one sound, as mp3 whose frames stand alone."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    time_s = np.arange(RATE_HZ) / RATE_HZ
    sound = rng.normal(0, 600, (SOURCE_SECONDS, RATE_HZ, 2))
    sound[:, 1:] += 0.9 * sound[:, :-1]
    for second in sound:
        for hz in rng.uniform(100, 2000, 4):
            second += (2000 * np.sin(2 * np.pi * hz * time_s) * np.exp(-3 * time_s))[:, None]
    rate = ["-f", "s16le", "-ar", str(RATE_HZ), "-ac", "2", "-i", "pipe:0"]
    mp3 = ["-b:a", str(BITS_PER_SECOND), "-reservoir", "0", "-write_xing", "0", "-f", "mp3"]
    content = subprocess.run(
        [ffmpeg_program(), "-v", "error", *rate, *mp3, "-id3v2_version", "0", "pipe:1"],
        input=np.rint(sound).astype("<i2").tobytes(),
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    at, starts = 0, []
    while at < len(content):  # bit 1 of the third byte: one byte of padding
        starts.append(at)
        at += 144 * BITS_PER_SECOND // RATE_HZ + (content[at + 2] >> 1 & 1)
    second = round(RATE_HZ / 1152)
    count = round(SONG_SECONDS * RATE_HZ / (second * 1152))
    for number in range(songs):
        firsts = rng.integers(len(starts) - second - 1, size=count)
        parts = [content[starts[first] : starts[first + second]] for first in firsts]
        (folder / f"song-{number:05d}.mp3").write_bytes(b"".join(parts))


def measured(home: Path, what: str, value: int | str) -> Row:
    """Run the child program ``what`` in folder ``home`` and measure it."""
    command = [sys.executable, __file__, "--child", what, str(value)]
    environment = {k: v for k, v in os.environ.items() if k != "DVC_ROOT"}
    start = time.perf_counter()
    with subprocess.Popen(command, cwd=home, env=environment, stdout=subprocess.PIPE) as process:
        cpu_seconds, peak_mb = watch(psutil.Process(process.pid))
        output = process.stdout.read() if process.stdout else b""
    if process.returncode:
        sys.exit(f"{command}: exit {process.returncode}")
    lines = [line for line in output.splitlines() if line.startswith(b"{")]
    row = {
        what: value,
        "cpu_seconds": round(cpu_seconds, 2),
        "wall_seconds": round(time.perf_counter() - start, 2),
        "peak_mb_per_process": round(peak_mb),
        **(json.loads(lines[-1]) if lines else {}),
    }
    print(json.dumps(row), flush=True)
    return row


def watch(process: psutil.Process) -> tuple[float, float]:
    """Return the CPU seconds of the process and its children, and the MB of the largest one."""
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


# The child programs. They run in the folder in which they are started.


def do_decode(processes: str) -> None:
    """Only decode: the lower bound of prepare."""
    paths, shares = sorted(Path("data").iterdir()), int(processes)
    others = [
        multiprocessing.get_context("fork").Process(target=decode_all, args=(paths[share::shares],))
        for share in range(1, shares)
    ]
    for other in others:
        other.start()
    decode_all(paths[::shares])
    for other in others:
        other.join()


def decode_all(paths: list[Path]) -> None:
    """Decode the songs one by one."""
    for path in paths:
        with open_song(path) as reader:
            for _ in reader.blocks():
                pass


def do_prepare(workers: str) -> None:
    """Run prepare with this number of workers."""
    from songcast.distributed import engine
    from songcast.stages import prepare

    logging.basicConfig(level=logging.ERROR)
    engine.free_cores = lambda: int(workers)
    prepare.main()


# The modules that a process of prepare loads before its first song, in order.
STARTS = {
    "Python, NumPy, psutil and the decoder": "songcast.audio",
    "the rest of prepare": "songcast.stages.prepare",
    "pydantic and YAML: params.yaml": "songcast.config",
}


def do_start(what: str) -> None:
    """Load the parts of prepare up to and including one."""
    for part, module in STARTS.items():
        __import__(module)
        if part == what:
            break


def do_features(_: str) -> None:
    """Compute the features of the songs, as train does before its first epoch."""
    from songcast.data.corpus import Budget, Corpus
    from songcast.training.feature_cache import budgeted, compute_features

    compute_features(opened("warm", 1).songs)  # compiles
    start = time.process_time()
    compute_features(opened().songs)
    spent = time.process_time() - start
    songs, budget = Corpus.open("prepared").songs[:TRAINING_SONGS], Budget.of(network()[0])
    spans = [span for song in songs for part in budgeted(song, budget).values() for span in part]
    seconds = sum(stop - first for first, _, stop in spans) / RATE_HZ
    print(json.dumps({"feature_cpu_per_audio_second": round(spent / seconds, 3)}))


def do_train(group: str) -> None:
    """Train the network of params.yaml for some steps; ``group`` is "WORKERS BATCH_SIZE"."""
    from songcast.distributed import cluster
    from songcast.training.checkpoint import Checkpoint
    from songcast.training.forecaster import fit_on_cluster

    workers, batch_size = map(int, group.split())
    # Ray does not pin its workers: without this a single worker would use all cores.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:workers])
    sampler = opened(batch_size=batch_size)
    # Without validation, only the steps of the second epoch lie between the ends of both epochs.
    for song in sampler.songs:
        song.splits.pop("validation", None)
    cache = Path("features").absolute()
    params, model = network()
    changed = {"epochs": 2, "steps_per_epoch": STEPS, "batch_size": batch_size}
    settings = params.model_copy(update=changed)
    ends: list[float] = []
    ray = cluster.import_ray()
    ray.init(address="local", num_cpus=workers, log_to_driver=False, logging_level="ERROR")
    checkpoint = Checkpoint(Path("checkpoints").absolute(), "")
    fit_on_cluster(
        model, lambda _: sampler, settings, checkpoint, workers,
        lambda *_: ends.append(time.perf_counter()), cache, math.inf,
    )  # fmt: skip
    ray.shutdown()
    shutil.rmtree("checkpoints")
    result = {
        "workers": workers,
        "batch_size": batch_size,
        "steps_per_second": round(STEPS / (ends[1] - ends[0]), 3),
        "weights": sum(array.size for array in model.weights.values()),
    }
    print(json.dumps(result))


def network() -> tuple[Any, Any]:
    """Return params.train and its network."""
    from songcast.config import Params
    from songcast.data.corpus import Corpus
    from songcast.training.setup import new_model

    params = Params.load().train
    return params, new_model(params, list(Corpus.open(Path("prepared").absolute())))


def opened(
    folder: str = "features", songs: int = TRAINING_SONGS, batch_size: int = BATCH_SIZE
) -> Any:
    """Return a sampler of crops from the first songs."""
    from songcast.data.corpus import Corpus
    from songcast.training.setup import open_crops

    params, model = network()
    corpus = Corpus.open(Path("prepared").absolute())
    changed = params.model_copy(update={"batch_size": batch_size})
    return open_crops(corpus.songs[:songs], model, changed, Path(folder).absolute())


def do_sweep(trials: str) -> None:
    """Run trials that load the modules of a trial but do not train."""
    from songcast.distributed import cluster

    def trial(_: dict[str, Any], report: Callable[[dict[str, float]], None]) -> None:
        import songcast.training.forecaster  # noqa: F401

        report({"step": 0.0, "train_bits_per_sample": 0.0, "validation_bits_per_sample": 0.0})

    with tempfile.TemporaryDirectory() as folder:
        cluster.tune(
            trial,
            {"units": (1, 2)},
            trials=int(trials),
            epochs=2,
            grace_epochs=1,
            seed=0,
            folder=Path(folder) / "sweep",
        )


CHILDREN = {
    "decode": do_decode,
    "prepare": do_prepare,
    "start": do_start,
    "features": do_features,
    "train": do_train,
    "sweep": do_sweep,
}

if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        CHILDREN[sys.argv[2]](sys.argv[3])
    else:
        main()

"""Growth of time and memory with songs, workers and trials. Run it on an idle machine.

    .venv/bin/python benchmarks/scale.py                    everything
    .venv/bin/python benchmarks/scale.py --songs 10 100     fewer songs for prepare

Writes docs/scale.json, docs/scale.md and docs/scale.png. The songs are generated: 10 s of stereo
noise as FLAC at 48 kHz, so each one is decoded and resampled to 44.1 kHz. Each row is measured in
a separate process. CPU seconds are the sum over all its processes, which other programs on the
machine affect little; training is measured by the wall clock.
"""

import argparse
import json
import logging
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
from songcast.audio.conversion import resampled
from songcast.audio.reading import open_song
from songcast.audio.songs import Song, write_song

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SONG_SECONDS, SOURCE_HZ, TARGET_HZ = 10, 48000, 44100
POLL_SECONDS = 0.02
TRAINING_SONGS, STEPS = 4, 60
# (workers, batch size): two workers share the batch of one, or use a batch twice as large.
GROUPS = ((1, BATCH_SIZE), (2, BATCH_SIZE), (2, 2 * BATCH_SIZE))
TRIALS = (2, 6)

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how songcast grows.")
    parser.add_argument("--songs", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--scratch", type=Path, help="a folder on the disk to measure")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        results = {
            "song_seconds": SONG_SECONDS,
            "cores": len(os.sched_getaffinity(0)),
            "prepare": [
                row for songs in arguments.songs for row in prepare_rows(Path(scratch), songs)
            ],
            "start": [measured(Path(scratch), "start", what) for what in STARTS],
            "training": training_rows(Path(scratch) / "training"),
            "sweep": [measured(Path(scratch), "sweep", trials) for trials in TRIALS],
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
    for what in ("decode", "prepare"):
        for workers in (1, 2):
            for name in ("prepared", "checkpoints"):
                shutil.rmtree(home / name, ignore_errors=True)
            row = measured(home, what, workers)
            known = {"what": what, "workers": row.pop(what), "songs": songs}
            rows.append({**known, "audio_hours": songs * SONG_SECONDS / 3600, **row})
    shutil.rmtree(home)
    return rows


def training_rows(home: Path) -> list[Row]:
    """Measure steps of train on one and on two Ray workers of one core each."""
    generate(home / "data", TRAINING_SONGS)
    shutil.copy(ROOT / "params.yaml", home)
    measured(home, "prepare", 1)
    features = measured(home, "features", 1)
    audio_seconds = TRAINING_SONGS * SONG_SECONDS * features["train_share"]
    rows = [measured(home, "train", f"{workers} {size}") for workers, size in GROUPS]
    per_second = features["feature_cpu_seconds"] / audio_seconds
    return [{**row, "feature_cpu_per_audio_second": round(per_second, 3)} for row in rows]


def generate(folder: Path, songs: int) -> None:
    """Write the songs: passages of one noise that start one frame apart."""
    folder.mkdir(parents=True)
    frames = SONG_SECONDS * SOURCE_HZ
    noise = np.random.default_rng(0).normal(0, 600, (frames + songs, 2))
    noise[1:] += 0.9 * noise[:-1]
    amplitudes = np.rint(noise).astype(np.int16)
    for number in range(songs):
        song = Song(samples=amplitudes[number:][:frames], sample_rate_hz=SOURCE_HZ, name="noise")
        write_song(song, folder / f"song-{number:05d}.flac")


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
    """Only decode and resample: the lower bound of prepare."""
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
    """Decode and resample the songs one by one."""
    for path in paths:
        with open_song(path) as reader:
            blocks = reader.blocks()
            for _ in resampled(blocks, reader.sample_rate_hz, TARGET_HZ, reader.channels):
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
    opened("warm", 1)  # compiles
    start = time.process_time()
    features, _ = opened()
    result = {
        "feature_cpu_seconds": time.process_time() - start,
        "train_share": features[0].splits["validation"][1] / (SONG_SECONDS * TARGET_HZ),
    }
    print(json.dumps(result))


def do_train(group: str) -> None:
    """Train the network of params.yaml for some steps; ``group`` is "WORKERS BATCH_SIZE"."""
    from songcast.distributed import cluster
    from songcast.training.checkpoint import Checkpoint
    from songcast.training.forecaster import fit_on_cluster

    workers, batch_size = map(int, group.split())
    # Ray does not pin its workers: without this a single worker would use all cores.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:workers])
    _, sampler = opened(batch_size=batch_size)
    params, model = network()
    changed = {"epochs": 2, "steps_per_epoch": STEPS, "batch_size": batch_size}
    settings = params.model_copy(update=changed)
    ends: list[float] = []
    ray = cluster.import_ray()
    ray.init(address="local", num_cpus=workers, log_to_driver=False, logging_level="ERROR")
    checkpoint = Checkpoint(Path("checkpoints").absolute(), "")
    # Without validation, only the steps of the second epoch lie between the ends of both epochs.
    fit_on_cluster(
        model, sampler, [], settings, checkpoint, workers,
        lambda *_: ends.append(time.perf_counter()),
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
) -> tuple[Any, Any]:
    """Return the features of the first songs and a sampler of crops."""
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

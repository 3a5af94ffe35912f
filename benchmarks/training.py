"""Training speed compared with the notebook's recipe, on one core.

The unit is the amplitude: one sample of one channel in the loss. "ours" runs steps of the stage
train (params.yaml) on crops of the prepared songs. "notebook" trains the two LSTMs of the
notebook, with three samples as input and batches of 100. Each runs in a separate process, pinned
to the same core before TensorFlow starts, in turns. Compilation is excluded. The features, which
are computed once per song and setting, are timed separately. Run it after `make run`:

    .venv/bin/python benchmarks/training.py
    .venv/bin/python benchmarks/training.py --only ours --batch-size 128     on a GPU
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from songcast.errors import SongcastError

OURS, NOTEBOOK = "ours", "notebook"
Results = dict[str, Any]


def main() -> int:
    arguments = parse_arguments()
    if arguments.only:
        print(json.dumps(run_alone(arguments)))
        return 0
    pin(arguments.core)
    results: dict[str, list[Results]] = {OURS: [], NOTEBOOK: []}
    for turn in range(arguments.rounds):
        for name, rounds in results.items():
            print(f"round {turn + 1}: {name} ...", file=sys.stderr, flush=True)
            rounds.append(run_child(name))
    best = {
        name: max(results, key=lambda r: float(r["amplitudes_per_second"]))
        for name, results in results.items()
    }
    ratio = best[OURS]["amplitudes_per_second"] / best[NOTEBOOK]["amplitudes_per_second"]
    if arguments.json:
        print(json.dumps({"best": best, "ratio": ratio, "rounds": results}, indent=2))
        return 0
    print_results(best, ratio)
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="duration of each training (20)"
    )
    parser.add_argument(
        "--rounds", type=int, default=2, help="number of turns; the best one counts (2)"
    )
    parser.add_argument(
        "--steps-per-execution",
        type=int,
        default=1,
        help="of the notebook's fit: 1 as in the notebook, 50 as in the stage baselines",
    )
    parser.add_argument("--core", type=int, help="number of the core (default: the first allowed)")
    parser.add_argument(
        "--only",
        choices=(OURS, NOTEBOOK),
        help="train one of them in this process, on all cores and the GPU",
    )
    parser.add_argument(
        "--batch-size", type=int, help="crops in a step of ours (params.yaml: train)"
    )
    parser.add_argument("--features", action="store_true", help="also time the features (slow)")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")
    return parser.parse_args()


def pin(core: int | None) -> None:
    """Restrict this process and its children to one core, if the system supports it."""
    if not hasattr(os, "sched_setaffinity"):
        print("this system cannot pin processes; all cores are used", file=sys.stderr)
        return
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0)) if core is None else core})


def run_child(name: str) -> Results:
    """Run one training in a new process with the same affinity and arguments."""
    command = [sys.executable, __file__, *sys.argv[1:], "--only", name]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    results: Results = json.loads(done.stdout.splitlines()[-1])
    return results


def run_alone(arguments: argparse.Namespace) -> Results:
    """Measure one training in this process."""
    from songcast.forecasting.keras_backend import import_keras

    import_keras()
    if arguments.only == NOTEBOOK:
        results = train_notebook(arguments.seconds, arguments.steps_per_execution)
    else:
        results = train_ours(arguments.seconds, arguments.batch_size)
        if arguments.features:
            results["feature_amplitudes_per_second"] = time_features()
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {**results, "peak_memory_mb": peak / 1e6}


def train_ours(seconds: float, batch_size: int | None) -> Results:
    """Train the network of params.yaml on the prepared songs, with prefetching as in the stage."""
    from songcast.config import Params
    from songcast.data.corpus import Corpus
    from songcast.files import FEATURES, PARAMS, PREPARED, root
    from songcast.forecasting.forecaster import prefetch
    from songcast.forecasting.network import network_of
    from songcast.training.batches import CropSampler
    from songcast.training.feature_cache import compute_features, song_features
    from songcast.training.forecaster import compile_trainer
    from songcast.training.setup import new_model

    params = Params.load(root() / PARAMS).train
    prepared = list(Corpus.open(root() / PREPARED))
    model = new_model(params, prepared)
    songs = song_features(prepared, model.front_end, params.step_frames, root() / FEATURES)
    compute_features(songs)
    batch_size = batch_size or params.batch_size
    sampler = CropSampler(
        songs,
        batch_size=batch_size,
        frames=params.crop_frames,
        look_back=params.look_back,
        seed=params.seed,
    )
    network = network_of(model.settings, model.weights)
    trainer = compile_trainer(network, params)
    state = np.zeros((batch_size, *network.input_shape[-1][1:]), np.float32)

    def train(steps: int) -> None:
        batches = prefetch(partial(sampler.batch, 0), range(steps))
        for _, (inputs, target) in batches:
            trainer.train_on_batch([*inputs.values(), state], target)

    return timed(train, batch_size * params.crop_frames, seconds)


def train_notebook(seconds: float, steps_per_execution: int) -> Results:
    """Train the notebook's recipe with LeakyReLU on the same songs."""
    from songcast.data.corpus import TRAIN, Corpus
    from songcast.files import PREPARED, root
    from songcast.forecasting.notebook import BATCH, CHANNELS, build_network, draw_windows

    look_back = 3
    corpus = Corpus.open(root() / PREPARED)
    passages = [song.passage(TRAIN).samples for song in corpus if TRAIN in song.splits]
    network = build_network(look_back, "leaky_relu")
    network.compile(optimizer="adam", loss="mse", steps_per_execution=steps_per_execution)

    def train(steps: int) -> None:
        windows = draw_windows(passages, look_back + 1, steps * BATCH, np.random.default_rng(0))
        inputs = [windows[:, :-1, c : c + 1] for c in range(CHANNELS)]
        network.fit(inputs, windows[:, -1, :], batch_size=BATCH, shuffle=False, verbose=0)

    return timed(train, BATCH * CHANNELS, seconds)


def timed(train: Callable[[int], None], amplitudes_per_step: int, seconds: float) -> Results:
    """Train for about ``seconds`` after a warm-up, which compiles and measures one step."""
    steps = 2
    train(steps)
    while True:
        start, start_cpu = time.perf_counter(), time.process_time()
        train(steps)
        spent, spent_cpu = time.perf_counter() - start, time.process_time() - start_cpu
        if spent >= seconds / 2:
            break
        steps = max(round(steps * min(seconds / spent, 10.0)), steps + 1)
    amplitudes = steps * amplitudes_per_step
    return {
        "steps": steps,
        "seconds": spent,
        "amplitudes_per_second": amplitudes / spent,
        "amplitudes_per_cpu_second": amplitudes / spent_cpu,
    }


def time_features() -> float:
    """Return the amplitudes per second of computing the features, without the cache."""
    from songcast.config import Params
    from songcast.data.corpus import Corpus
    from songcast.files import PARAMS, PREPARED, root
    from songcast.forecasting.front_end import FrontEndSettings
    from songcast.training.feature_cache import compute_features, song_features, training_frames

    params = Params.load(root() / PARAMS).train
    songs = list(Corpus.open(root() / PREPARED))
    settings = FrontEndSettings(kind=params.front_end)
    with tempfile.TemporaryDirectory() as scratch:
        start = time.perf_counter()
        compute_features(song_features(songs, settings, params.step_frames, Path(scratch)))
        spent = time.perf_counter() - start
    return sum(training_frames(song) * song.channels for song in songs) / spent


def print_results(best: dict[str, Results], ratio: float) -> None:
    """Print both trainings and their ratio."""
    from songcast.report.console import number, print_table

    columns = ["training", "amplitudes/s", "amplitudes/CPU s", "steps", "peak memory, MB"]
    rows = [
        [
            name,
            number(results["amplitudes_per_second"], 0),
            number(results["amplitudes_per_cpu_second"], 0),
            str(results["steps"]),
            number(results["peak_memory_mb"], 0),
        ]
        for name, results in best.items()
    ]
    print_table(columns, rows)
    print(f"ours / notebook: {ratio:.1f}")
    features = best[OURS].get("feature_amplitudes_per_second")
    if features:
        print(f"features, once per song: {features:.0f} amplitudes/s")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SongcastError as mistake:
        sys.exit(f"training: {mistake}")

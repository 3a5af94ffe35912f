"""Speed of continuations compared with a plain Keras loop, on one core.

The real-time factor is seconds of sound per CPU second of this process; reading the prompt is
timed separately. It is measured in mono and stereo, at 16 and 44.1 kHz, for one continuation and
for 16 in parallel threads, with the default network and a large one (random weights cost as much
as trained ones). The plain loop calls ``predict`` once per sample, as SampleRNN implementations
do. Memory is the growth of the resident set during a long continuation. The songs are synthetic,
so the benchmark runs without `make run`:

    .venv/bin/python benchmarks/continuation.py
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from songcast.forecasting.keras_backend import prepare_backend

DEFAULT, LARGE = "default", "large"
PARALLEL = 16
SONG_SECONDS = 20.0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="length of each continuation (10)"
    )
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="length of the long continuation (10)"
    )
    parser.add_argument("--core", type=int, default=0, help="number of the core (0)")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")
    arguments = parser.parse_args()
    pin(arguments.core)
    results = {
        "real_time_factors": [
            measure(size, channels, rate_hz, arguments.seconds)
            for size in (DEFAULT, LARGE)
            for channels in (1, 2)
            for rate_hz in (16000, 44100)
        ],
        "keras": keras_loop(44100),
        "long": long_run(arguments.minutes),
    }
    if arguments.json:
        print(json.dumps(results, indent=2))
    else:
        print_results(results)
    return 0


def pin(core: int) -> None:
    """Restrict this process to one core, before a library counts the cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ[name] = "1"
    prepare_backend()


def continuation_model(size: str) -> Any:
    """Return a continuation model with random weights."""
    from songcast.continuation.model import ContinuationModel
    from songcast.continuation.network import build_network
    from songcast.continuation.settings import NetworkSettings

    settings = NetworkSettings()
    if size == LARGE:
        settings = NetworkSettings(
            look_back=32, slow_units=512, fast_units=128, head_units=(96, 64)
        )
    return ContinuationModel(build_network(settings), settings, copy_share=0.95)


def song(channels: int, rate_hz: int) -> NDArray[np.int16]:
    """Return notes and noise, (frames, channels) int16."""
    rng = np.random.default_rng(0)
    t = np.arange(round(SONG_SECONDS * rate_hz)) / rate_hz
    notes_hz = 220.0 * 2.0 ** (rng.integers(0, 24, int(SONG_SECONDS * 4) + 1) / 12.0)
    phase = np.cumsum(notes_hz[(t * 4).astype(int)]) / rate_hz
    decay = np.exp(-4.0 * (t * 4 % 1.0))
    tone = 6000.0 * decay * (np.sin(2 * np.pi * phase) + 0.3 * np.sin(4 * np.pi * phase))
    sound = tone[:, None] + rng.normal(0.0, 200.0, (len(t), channels))
    return np.clip(np.rint(sound), -32768, 32767).astype(np.int16)


def measure(size: str, channels: int, rate_hz: int, seconds: float) -> dict[str, Any]:
    from songcast.continuation.conditioning import Prompt

    model, samples = continuation_model(size), song(channels, rate_hz)
    frames = round(seconds * rate_hz)
    model.generate(Prompt(samples, rate_hz), rate_hz // 4, 1.0, 0)  # compiles
    reading, prompt = cpu_seconds(lambda: Prompt(samples, rate_hz))
    encoding, stream = cpu_seconds(lambda: model.stream(prompt, frames, 1.0, 0))
    first, _ = cpu_seconds(lambda: next(stream))
    one, _ = cpu_seconds(lambda: list(stream))

    def many() -> None:
        with ThreadPoolExecutor(PARALLEL) as pool:
            list(pool.map(lambda seed: model.generate(prompt, frames, 1.0, seed), range(PARALLEL)))

    together, _ = cpu_seconds(many)
    return {
        "network": size,
        "parameters": model.network.count_params(),
        "channels": channels,
        "sample_rate_hz": rate_hz,
        "prompt_seconds": reading + encoding,
        "first_block_seconds": first,
        "one": seconds / (one + first),
        "parallel_16": PARALLEL * seconds / together,
    }


def keras_loop(rate_hz: int, calls: int = 200) -> dict[str, Any]:
    """Call ``predict`` once per sample, with both channels of a stereo song in one batch."""
    from songcast.continuation.features import FAST, FAST_FEATURES, SLOW, SLOW_FEATURES

    model = continuation_model(DEFAULT)
    steps = SLOW // FAST
    inputs = [
        np.zeros((2, 1, SLOW_FEATURES), np.float32),
        np.zeros((2, steps, FAST_FEATURES), np.float32),
        np.zeros((2, 1), np.int32),
        np.zeros((2, FAST, model.settings.sight), np.float32),
        np.zeros((2, FAST, 1), np.float32),
    ]
    model.network.predict(inputs, verbose=0)
    began = time.perf_counter()
    for _ in range(calls):
        model.network.predict(inputs, verbose=0)
    each = (time.perf_counter() - began) / calls
    return {"calls_per_second": 1.0 / each, "real_time_factor": 1.0 / (each * rate_hz)}


def long_run(minutes: float) -> dict[str, Any]:
    """Measure the growth of the resident set during a stereo continuation; blocks are dropped."""
    from songcast.continuation.conditioning import Prompt

    stream = continuation_model(DEFAULT).stream(
        Prompt(song(2, 44100), 44100), round(minutes * 60 * 44100), 1.0, 0
    )
    sizes = []
    for index, _ in enumerate(stream):
        if index % 100 == 50:
            sizes.append(resident_mib())
    return {"minutes": minutes, "first_mib": sizes[0], "growth_mib": sizes[-1] - sizes[0]}


def resident_mib() -> float:
    import psutil

    return float(psutil.Process().memory_info().rss) / 2**20


def cpu_seconds(action: Callable[[], Any]) -> tuple[float, Any]:
    began = time.process_time()
    result = action()
    return time.process_time() - began, result


def print_results(results: dict[str, Any]) -> None:
    keras = results["keras"]["real_time_factor"]
    print("real-time factors on one core")
    print("network  channels     Hz   one  16 parallel   prompt s  first block ms  one / Keras")
    for row in results["real_time_factors"]:
        print(
            f"{row['network']:8} {row['channels']:8} {row['sample_rate_hz']:6}"
            f" {row['one']:5.2f} {row['parallel_16']:12.2f} {row['prompt_seconds']:10.2f}"
            f" {1000 * row['first_block_seconds']:15.0f} {row['one'] / keras:12.0f}"
        )
    print(
        f"plain Keras loop, stereo at 44100 Hz: {results['keras']['calls_per_second']:.1f} samples "
        f"per second, {keras:.5f} x real time"
    )
    print(
        f"{results['long']['minutes']:g} minutes: {results['long']['growth_mib']:+.1f} MiB on "
        f"{results['long']['first_mib']:.0f} MiB"
    )


if __name__ == "__main__":
    print(f"{Path(__file__).name}: about five minutes", file=sys.stderr)
    sys.exit(main())

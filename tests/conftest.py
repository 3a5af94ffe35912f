"""Settings of pytest and hypothesis, and fixtures with synthesised songs."""

import logging
import os
import random
import resource
import signal
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

import songcast
from songcast.audio.songs import Song

MakeSong = Callable[..., Song]

# The same examples in every run, also on a busy machine.
settings.register_profile(
    "songcast",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("songcast")


# Copies of the package in tests use the compiled code of this one; compiling takes a minute.
os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(songcast.__file__).parent / "__pycache__"))


def pytest_configure(config: pytest.Config) -> None:
    """Make a folder for all processes of this run; it is removed at the end of the run."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        shared = tempfile.TemporaryDirectory(prefix="songcast-tests-")
        config.add_cleanup(shared.cleanup)
        os.environ["SONGCAST_TESTS_SHARED"] = shared.name


def pytest_runtest_setup() -> None:
    """Seed the generator of Keras, so that weights do not depend on the order of the tests."""
    random.seed(0)


@pytest.fixture
def few_open_files() -> Iterator[None]:
    """Limit this process to 200 open files, fewer than the test has arrays."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, None, None]:
    """Restore the tracer of coverage, which Python removes if a RecursionError occurs in it."""
    tracer = sys.gettrace()
    try:
        return (yield)
    finally:
        sys.settrace(tracer)


@pytest.fixture
def own_process() -> Generator[None, None, None]:
    """Restore the handlers of signals and logging, which ``run_stage`` changes."""
    handlers, level = logging.root.handlers[:], logging.getLogger("songcast").level
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)
    logging.root.handlers[:] = handlers
    logging.getLogger("songcast").setLevel(level)


@pytest.fixture(scope="session")
def make_song() -> MakeSong:
    """``make_song(frames=11025, channels=2, sample_rate_hz=44100, seed=0)``: a chord with noise."""

    def make(
        frames: int = 11025, channels: int = 2, sample_rate_hz: int = 44100, seed: int = 0
    ) -> Song:
        rng = np.random.default_rng(seed)
        seconds = np.arange(frames)[:, None] / sample_rate_hz
        amplitudes = 300.0 * rng.standard_normal((frames, channels))
        for note_hz in (220.0, 277.2, 329.6):
            phases = rng.uniform(0, 2 * np.pi, channels)
            amplitudes += 4000.0 * np.sin(2 * np.pi * note_hz * seconds + phases)
        samples = np.rint(amplitudes).astype(np.int16)
        return Song(samples=samples, sample_rate_hz=sample_rate_hz, name="chord")

    return make


@pytest.fixture
def chord(make_song: MakeSong) -> Song:
    """A quarter of a second in stereo at 44.1 kHz."""
    return make_song()


@pytest.fixture
def rejection(capfd):
    """Run a command that must fail: exit code 2, one line on stderr, nothing on stdout."""
    from songcast import cli

    def run(*arguments):
        try:
            code = cli.main(arguments)
        except SystemExit as ended:  # argparse
            code = ended.code
        out, err = capfd.readouterr()
        assert (code, out) == (2, ""), err
        assert err.count("\n") == 1, err
        assert err.startswith("songcast")
        return err

    return run

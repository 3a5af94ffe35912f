"""The stages of the DVC pipeline: ``python -m songcast.stages.NAME``, one ``main()`` each.

A stage reads params.yaml and the outputs of earlier stages, and writes its outputs as files, all
in its working directory: `dvc exp run --temp` and `--queue` run it in a copy of the repository.
Only the MLflow store and the feature cache, whose keys are digests, are those of the repository.
"""

import ctypes
import json
import logging
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import TextIO

from threadpoolctl import threadpool_limits

from songcast.errors import run_program
from songcast.files import CHECKPOINTS, METRICS, PLOTS, root, sweep, write_json

# What `songcast estimate` expects of each stage, and how far the last runs were from it.
ESTIMATES = f"{CHECKPOINTS}/estimates.json"
# MLflow and scikit-learn import these for functions that training does not use: 70 MB.
UNUSED = ("pandas", "pyarrow", "pygments")
M_ARENA_MAX = -8  # of malloc.h


def run_stage(main: Callable[[], int | None], trains: bool = False) -> None:
    """Run a stage's ``main`` as a program, with log lines on stderr, and exit.

    ``trains``: keep its memory low, which TensorFlow takes most of. The exit codes are those of
    ``errors.run_program``; SIGTERM counts as an interruption.
    """
    stage = Path(main.__code__.co_filename).stem
    if trains:
        sys.meta_path.insert(0, _NotInstalled())
        # One heap for all threads, so that each uses again what others have freed.
        with suppress(OSError, AttributeError):  # not glibc
            ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)
    logging.basicConfig(format="%(message)s", handlers=[_Stderr()])
    logging.getLogger("songcast").setLevel(logging.INFO)
    # Songs are processed in parallel. BLAS threads would only wait for each other.
    threadpool_limits(1, user_api="blas")
    # As Ctrl-C: open files are closed, and the MLflow run is marked as killed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    def program() -> int | None:
        for folder in (".", METRICS, PLOTS):
            sweep(Path(folder))
        code = main()
        _compare(stage, time.process_time())
        return code

    sys.exit(run_program(f"songcast {stage}", program))


def _compare(stage: str, cpu_seconds: float) -> None:
    """Correct later estimates of a stage that was announced; once per announcement.

    Not of prepare: its worker processes do most of the work.
    """
    path = root() / ESTIMATES
    try:
        record = json.loads(path.read_text())
        expected = record["expected"].pop(stage)
        if stage == "prepare":
            cpu_seconds = expected
        record.setdefault("factors", {})[stage] = min(max(cpu_seconds / expected, 0.25), 4.0)
        write_json(path, record)
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
        pass  # not announced


class _NotInstalled(MetaPathFinder):
    """Makes the packages ``UNUSED`` look as if they were not installed, but to Ray."""

    def find_spec(self, fullname: str, *_: object) -> None:
        if fullname in UNUSED and "ray" not in sys.modules:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to the present ``sys.stderr``: a progress bar replaces it, to scroll lines above."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)

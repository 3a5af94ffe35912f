"""Import of Keras: choice of the backend, and suppression of start-up messages.

TensorFlow's C++ libraries write to stderr while they load, before their settings apply ("All log
messages before absl::InitializeLog() is called ...", "Could not find cuda drivers ..."). While
Keras loads, the process's stderr therefore goes to a file; afterwards all other lines are copied
to stderr.
"""

import importlib.util
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from songcast.errors import SongcastError

ENVIRONMENT = {
    "KERAS_BACKEND": "tensorflow",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    # GPUs would round factors to 10 bits (TF32), which changes the results of a model.
    "JAX_DEFAULT_MATMUL_PRECISION": "highest",
    "NVIDIA_TF32_OVERRIDE": "0",  # the same for NVIDIA's libraries
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",  # take GPU memory as needed, not all of it
}
BACKENDS = ("tensorflow", "jax")
# Keras and TensorFlow import these for functions that are not used here, if they are installed: 260
# MB and half of the CPU time of the import.
OPTIONAL = ("PIL", "h5py", "jax", "matplotlib", "pandas", "pydot", "sklearn")
# A log line of Google's libraries, old style or absl's, below fatal severity.
_STARTUP_MESSAGE = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog\(\)"
    rb"|[IWE]\d{4} [\d:.]+ +\d+ \S+:\d+\] "
    rb"|\d{4}-\d\d-\d\d [\d:.]+: [IWE] \S+:\d+\] "
    rb"|To enable the following instructions: "
)


def prepare_backend() -> None:
    """Set the environment variables that Keras and TensorFlow read at their first import.

    Variables that the user has set stay. Call this before anything imports Keras.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def import_keras() -> Any:
    """Import Keras (some seconds) without start-up messages, and return it.

    Raises ``SongcastError`` for a KERAS_BACKEND that cannot be used.
    """
    prepare_backend()
    backend = os.environ["KERAS_BACKEND"]
    if backend not in BACKENDS or importlib.util.find_spec(backend) is None:
        raise SongcastError(
            f"KERAS_BACKEND={backend}: not installed or not supported: unset the variable"
        )
    with quiet_startup(), _hidden(name for name in OPTIONAL if name != backend):
        import keras
    return keras


@contextmanager
def _hidden(names: Iterable[str]) -> Iterator[None]:
    """Make the packages that are not loaded look as if they were not installed."""
    missing = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(missing))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in missing:
            del sys.modules[name]


@contextmanager
def quiet_startup() -> Iterator[None]:
    """Suppress the start-up messages of Google's libraries within the block.

    Other lines reach stderr when the block ends. If the block fails, all lines do.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as log:
        terminal = os.dup(2)
        os.dup2(log.fileno(), 2)
        failed = False
        try:
            yield
        except Exception:
            failed = True
            raise
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            log.seek(0)
            lines = [line for line in log if failed or not _STARTUP_MESSAGE.match(line)]
            sys.stderr.write(b"".join(lines).decode(errors="replace"))
            sys.stderr.flush()

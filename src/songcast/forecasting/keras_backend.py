"""Starting Keras: which backend, and no chatter.

TensorFlow's C++ libraries write to the terminal while they load, before any setting of theirs
is heard ("All log messages before absl::InitializeLog() is called ...", "Could not find cuda
drivers ..."). So while Keras loads, the process's stderr goes to a file, and afterwards
whatever is not chatter is passed on.
"""

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

ENVIRONMENT = {
    "KERAS_BACKEND": "tensorflow",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    # GPUs would round factors to 10 bits (TF32), and a model say other things there than here.
    "JAX_DEFAULT_MATMUL_PRECISION": "highest",
    "NVIDIA_TF32_OVERRIDE": "0",  # NVIDIA's libraries, with which TensorFlow multiplies
}
# One log line of Google's libraries, old style or absl's, of less than fatal severity.
_CHATTER = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog\(\)"
    rb"|[IWE]\d{4} [\d:.]+ +\d+ \S+:\d+\] "
    rb"|\d{4}-\d\d-\d\d [\d:.]+: [IWE] \S+:\d+\] "
    rb"|To enable the following instructions: "
)


def prepare_backend() -> None:
    """Set what Keras and TensorFlow read from the environment when they are first imported.

    What the user has set stays. Costs nothing; call it before anything imports Keras.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def import_keras() -> Any:
    """Import Keras (some seconds) without its start-up chatter, and return it."""
    prepare_backend()
    with quiet_startup():
        import keras
    return keras


@contextmanager
def quiet_startup() -> Iterator[None]:
    """Keep the start-up chatter of Google's libraries from stderr within the block.

    Other lines reach stderr when the block ends; if it fails, all of them do.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as said:
        terminal = os.dup(2)
        os.dup2(said.fileno(), 2)
        failed = True
        try:
            yield
            failed = False
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            said.seek(0)
            lines = [line for line in said if failed or not _CHATTER.match(line)]
            sys.stderr.write(b"".join(lines).decode(errors="replace"))
            sys.stderr.flush()

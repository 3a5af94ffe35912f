"""The stages of the pipeline: ``python -m songcast.stages.NAME``, one ``main()`` each."""

import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from songcast.errors import SongcastError
from songcast.files import METRICS, PLOTS, disk_fault, sweep

USER_MISTAKE, INTERRUPTED = 2, 130


def run_stage(main: Callable[[], int | None]) -> None:
    """Run a stage's ``main`` as a program: plain log lines on stderr, a user's mistake as one.

    Exits with 2 after ``songcast STAGE: MESSAGE`` for a ``SongcastError`` and for a disk that is
    full or may not be written, with 130 when interrupted or terminated; any other exception is
    our bug and keeps its traceback (exit 1).
    """
    stage = Path(main.__code__.co_filename).stem
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("songcast").setLevel(logging.INFO)
    # As Ctrl-C: what is open is closed, and the MLflow run is marked as killed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for folder in (".", METRICS, PLOTS):
            sweep(Path(folder))
        sys.exit(main())
    except SongcastError as error:
        _leave(USER_MISTAKE, f"songcast {stage}: {error}")
    except KeyboardInterrupt:
        _leave(INTERRUPTED, f"songcast {stage}: stopped")
    except Exception as error:
        line = disk_fault(error)
        if line is None:
            raise
        _leave(USER_MISTAKE, f"songcast {stage}: {line}")


def _leave(code: int, line: str) -> NoReturn:
    print(line, file=sys.stderr)
    sys.exit(code)

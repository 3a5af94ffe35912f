"""The stages of the pipeline: ``python -m songcast.stages.NAME``, one ``main()`` each."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path

from songcast.errors import SongcastError


def run_stage(main: Callable[[], None]) -> None:
    """Run a stage's ``main`` as a program: plain log lines on stderr, a user's mistake as one.

    Exits with 2 after ``songcast STAGE: MESSAGE`` for a ``SongcastError``, with 130 when
    interrupted; any other exception is our bug and keeps its traceback (exit 1).
    """
    stage = Path(main.__code__.co_filename).stem
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("songcast").setLevel(logging.INFO)
    try:
        main()
    except SongcastError as error:
        print(f"songcast {stage}: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"songcast {stage}: stopped", file=sys.stderr)
        sys.exit(130)

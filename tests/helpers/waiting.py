"""Waiting for what must come to hold, however slow the machine is. Not a test module."""

import time
from collections.abc import Callable

PATIENCE_SECONDS = 300.0


def wait_until(holds: Callable[[], object], while_true: Callable[[], object] | None = None) -> None:
    """Look again and again until ``holds``; fail where ``while_true`` no longer does."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert while_true is None or while_true()
        assert time.monotonic() < deadline, f"not within {PATIENCE_SECONDS:g} s"
        time.sleep(0.01)

"""Wait for a condition, also on a slow machine."""

import time
from collections.abc import Callable

TIMEOUT_SECONDS = 300.0


def wait_until(holds: Callable[[], object], while_true: Callable[[], object] | None = None) -> None:
    """Poll until ``holds()`` is true; fail if ``while_true()`` is false before that."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not holds():
        assert while_true is None or while_true()
        assert time.monotonic() < deadline, f"not within {TIMEOUT_SECONDS:g} s"
        time.sleep(0.01)

"""Output for the terminal: tables and JSON on stdout, notes and a progress bar on stderr."""

import json
import logging
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

log = logging.getLogger("songcast.progress")
# Between log lines about the progress of a stage.
LOG_SECONDS = 30.0
# Wider than any table, so that output for a file or another program is never cut.
PIPED_COLUMNS = 10_000
MISSING = "-"
BEST = "* "  # the start of a table cell that holds the best value of its column


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> None:
    """Print a table; the first ``left`` columns hold words, the others numbers.

    On a terminal it has a ruled head and folds in a narrow window; elsewhere it is plain
    aligned text.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    on_terminal = sys.stdout.isatty()
    table = Table(box=box.SIMPLE_HEAD if on_terminal else None, show_edge=False, pad_edge=False)
    for place, column in enumerate(columns):
        words = place < left
        table.add_column(
            column, justify="left" if words else "right", overflow="fold", no_wrap=not words
        )
    for row in rows:
        # Text, so that rich reads no markup in the brackets of a name.
        table.add_row(*(Text(c, style="bold" if c.startswith(BEST) else "") for c in row))
    width = None if on_terminal else PIPED_COLUMNS
    Console(file=sys.stdout, width=width, highlight=False).print(table)


def print_json(document: object) -> None:
    """Print one JSON document, readable under any encoding of the terminal."""
    print(json.dumps(document, indent=2, allow_nan=False))


def note(line: str) -> None:
    """Print a remark to stderr."""
    print(f"songcast: {line}", file=sys.stderr)


def number(value: object, digits: int) -> str:
    """Return a number as text, ``-`` for NaN and for anything else.

    >>> number(3.14159, 2), number(None, 2)
    ('3.14', '-')
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        return MISSING
    return f"{value:.{digits}f}"


def duration(seconds: float) -> str:
    """Return minutes and seconds, or seconds alone below a minute.

    >>> duration(201.2), duration(0.25)
    ('3:21', '0.25 s')
    """
    if seconds < 60:
        return f"{seconds:.2f} s"
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


@contextmanager
def song_warnings_as_lines() -> Iterator[None]:
    """Show each ``SongWarning`` within the block as one line; leave other warnings alone."""
    from songcast.audio.songs import SongWarning

    with warnings.catch_warnings():
        warnings.simplefilter("always", SongWarning)
        show = warnings.showwarning

        def one_line(message: Warning | str, *rest: object) -> None:
            if isinstance(message, SongWarning):
                note(f"warning: {message}")
            else:
                show(message, *rest)  # type: ignore[arg-type]

        warnings.showwarning = one_line  # type: ignore[assignment]
        yield


@contextmanager
def progress(label: str, total: float, unit: str) -> Iterator[Callable[..., None]]:
    """Show a bar with the time left on stderr; without a terminal, log a line now and then.

    Yields ``update(advance=..., completed=..., description=...)``, all of them optional:
    ``advance`` and ``completed`` count in ``unit``, and ``description`` replaces ``label``.
    Log lines and ``note`` scroll above the bar.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    on_terminal = sys.stderr.isatty()
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn(f"{{task.completed:.0f}} of {{task.total:.0f}} {unit}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not on_terminal,
    ) as bar:
        number = bar.add_task(label, total=total)
        task, first = bar.tasks[0], None
        began = said = time.monotonic()

        def update(**change: Any) -> None:
            nonlocal first, began, said
            bar.update(number, **change)
            now, done = time.monotonic(), task.completed
            if first is None:
                first = 0.0
                if "completed" in change:  # a training may resume in its middle
                    first, began = done, now
            if not on_terminal and done > first and now - said > LOG_SECONDS:
                said = now
                seconds = (now - began) / (done - first) * max(total - done, 0.0)
                left = f"{seconds:.0f} s" if seconds < 60 else duration(seconds)
                count = f"{done:.0f} of {total:.0f} {unit}"
                log.info("%s: %s, %s left", task.description, count, left)

        yield update

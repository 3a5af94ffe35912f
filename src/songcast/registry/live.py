"""The records of served songs: where they are, and the statistics that need no labels.

A server writes one record for each answered song into an SQLite file. Every served song is an exact
evaluation, because a forecaster is judged on the song itself. Two versions that forecast the same
songs can therefore be compared, and a change of the served songs can be detected.
"""

import contextlib
import math
import os
import sqlite3
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path

import numpy as np

from songcast.errors import RegistryError
from songcast.files import root
from songcast.registry.comparison import BITS, Comparison, compare
from songcast.registry.gate import LEAST_SONGS

ENVIRONMENT = "SONGCAST_RECORDS"
# About 15 MB; then the oldest records are deleted.
MOST_RECORDS = 100_000
# A shift is drift if chance gives it in fewer than one of a hundred runs of `songcast monitor`,
# and if it matters: lossless files 0.1 bits per sample larger or smaller.
LEVEL, LEAST_SHIFT_BITS = 0.01, 0.1
# Of a window; the shift is a median over all pairs of songs.
MOST_COMPARED = 2000
SETTINGS = ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=NORMAL")


@dataclass(frozen=True, kw_only=True)
class Record:
    """One answered song. ``song``: digest of the bytes that were sent; audio is not stored.

    ``time``: seconds since 1970. ``model``: such as ``models:/songcast/3``. ``shadow``: 1 if the
    model ran after the answer, for comparison only. ``bits_per_sample`` and ``prediction_gain_db``
    (mean of the channels) are None for a continuation. ``work_seconds``: of the worker.
    """

    time: float
    model: str
    shadow: int
    song: str
    seconds: float
    sample_rate_hz: int
    channels: int
    bits_per_sample: float | None
    prediction_gain_db: float | None
    work_seconds: float


COLUMNS = ", ".join(field.name for field in fields(Record))


@dataclass(frozen=True, kw_only=True)
class Shift:
    """How a measure of some songs differs from that of other songs.

    ``songs``, ``other_songs``: how many. ``median``, ``other_median``: of the measure. ``shift``:
    the median difference over all pairs (Hodges and Lehmann). ``effect``: probability that a song
    has a higher value than another one, minus that of a lower one, in [-1, 1] (Cliff's delta).
    ``p``: of the Mann-Whitney U test, two-sided. All NaN if a side has no songs.
    """

    songs: int
    other_songs: int
    median: float
    other_median: float
    shift: float = math.nan
    effect: float = math.nan
    p: float = math.nan


def records_path() -> Path | None:
    """Return the file of the records, served/records.db unless ``SONGCAST_RECORDS`` names another.

    None if that variable is empty: then nothing is recorded.
    """
    name = os.environ.get(ENVIRONMENT)
    return root() / "served" / "records.db" if name is None else Path(name) if name else None


def open_records(path: Path, wait_seconds: float = 5.0) -> sqlite3.Connection:
    """Open the file for writing; create it if it does not exist. Raises ``sqlite3.Error``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=wait_seconds, check_same_thread=False)
    for setting in SETTINGS:
        connection.execute(setting)
    with connection:
        connection.execute(f"CREATE TABLE IF NOT EXISTS songs (id INTEGER PRIMARY KEY, {COLUMNS})")
    return connection


def add_record(connection: sqlite3.Connection, record: Record) -> None:
    """Write one record and delete the oldest beyond ``MOST_RECORDS``. Raises ``sqlite3.Error``."""
    marks = ", ".join("?" * len(fields(Record)))
    with connection:
        row = connection.execute(f"INSERT INTO songs ({COLUMNS}) VALUES ({marks})", astuple(record))
        connection.execute("DELETE FROM songs WHERE id <= ?", [(row.lastrowid or 0) - MOST_RECORDS])


def read_records(path: Path | None, model: str, shadow: bool = True) -> list[Record]:
    """Return the forecasts of ``model``, oldest first; ``shadow``: also those after an answer.

    Raises ``RegistryError`` if there is no file of records or it cannot be read.
    """
    if path is None or not path.is_file():
        raise RegistryError(
            f"{path or ENVIRONMENT}: no songs were served yet: `songcast serve` records them, "
            f"{ENVIRONMENT} names another file"
        )
    query = f"SELECT {COLUMNS} FROM songs WHERE model = ? AND shadow <= ? AND bits_per_sample >= 0"
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=30.0)) as connection:
            rows = connection.execute(f"{query} ORDER BY id", [model, int(shadow)]).fetchall()
    except sqlite3.Error as error:
        if "no such table" in str(error):  # the server is creating it
            return []
        raise RegistryError(f"{path}: cannot be read ({error}): restore or move it") from None
    return [Record(**dict(zip(COLUMNS.split(", "), row, strict=True))) for row in rows]


def live_comparison(first: str, second: str) -> Comparison:
    """Compare two models, such as ``models:/songcast/3``, on the songs that both forecast.

    A song that was sent several times counts once. Raises ``RegistryError``.
    """
    a, b = (
        {"songs": {r.song: {BITS: r.bits_per_sample} for r in read_records(records_path(), model)}}
        for model in (first, second)
    )
    return compare(a, b)


def measured_shift(values: Sequence[float], others: Sequence[float]) -> Shift:
    """Compare the values of songs with those of others; only the last 2000 of each count.

    >>> found = measured_shift([5.0, 6.0, 7.0, 8.0], [1.0, 2.0, 3.0])
    >>> found.shift, found.effect, round(found.p, 4)
    (4.5, 1.0, 0.0571)
    """
    x, y = (np.asarray(side[-MOST_COMPARED:], np.float64) for side in (values, others))
    median, other = (float(np.median(side)) if side.size else math.nan for side in (x, y))
    found = Shift(songs=x.size, other_songs=y.size, median=median, other_median=other)
    if not (x.size and y.size):
        return found
    shift, effect, p = float(np.median(np.subtract.outer(x, y))), 0.0, 1.0
    if np.ptp(np.concatenate([x, y])):  # otherwise the variance of the statistic is 0
        from scipy.stats import mannwhitneyu

        test = mannwhitneyu(x, y, alternative="two-sided")
        effect, p = 2.0 * float(test.statistic) / (x.size * y.size) - 1.0, float(test.pvalue)
    return replace(found, shift=shift, effect=effect, p=p)


def is_drift(shift: Shift, comparisons: int) -> bool:
    """Return whether a shift in bits per sample is neither chance nor negligible.

    ``comparisons``: how many are made at once; together they reach ``LEVEL`` by chance
    (Bonferroni).
    """
    return (
        shift.songs >= LEAST_SONGS
        and abs(shift.shift) >= LEAST_SHIFT_BITS
        and shift.p < LEVEL / comparisons
    )

"""The gate: may a version be served? A pure function of measured numbers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from songcast.registry.comparison import Entry, compare

Numbers = Mapping[str, Any]

FINITE = ("bits_per_sample", "prediction_gain_db")


@dataclass(frozen=True, kw_only=True)
class Gate:
    """``passed``: the version may become champion. ``reasons``: why not; empty when passed."""

    passed: bool
    reasons: tuple[str, ...]


def gate(candidate: Entry, ridge: Entry, champion: Entry | None) -> Gate:
    """Judge ``candidate`` by its numbers on passages that no fit has seen.

    Each argument is what ``evaluation_log.measured`` gives: ``{"summary": numbers, "songs": {SLUG:
    numbers}}``, numbers being ``prediction_gain_db``, ``bits_per_sample``, ``lag_samples``,
    ``clipped_samples`` (how many predicted samples lie outside int16). ``champion`` is None
    where there is none, or where the candidate itself is the champion. Ridge must be beaten on
    the mean over songs, the champion beyond chance (see ``comparison``).

    >>> def entry(bits):
    ...     good = {"prediction_gain_db": 40.0, "lag_samples": 0, "clipped_samples": 0}
    ...     return {"summary": good | {"bits_per_sample": bits},
    ...             "songs": {"a": {"bits_per_sample": bits}}}
    >>> gate(entry(6.0), entry(7.0), None)
    Gate(passed=True, reasons=())
    >>> gate(entry(6.0), entry(6.0), None).reasons
    ('not better than ridge: 6.0000 against 6.0000 bits per sample over 1 song',)
    """
    reasons = _faults(candidate["summary"])
    if any(key in reason for key in FINITE for reason in reasons):
        return Gate(passed=False, reasons=tuple(reasons))  # there is nothing to compare
    reasons += _not_better(candidate, ridge, "ridge")
    if champion is not None:
        found = _not_better(candidate, champion, "the champion")
        reasons += found or _by_chance(candidate, champion)
    return Gate(passed=not reasons, reasons=tuple(reasons))


def _not_better(candidate: Entry, other: Entry, name: str) -> list[str]:
    """Return the reason for which ``candidate`` does not beat ``other`` on the mean, or none."""
    found = compare(candidate, other)
    if found.mean < 0:
        return []
    if math.isnan(found.mean):  # NaN must never open the gate
        return [f"nothing to compare with {name}: no song that both were measured on: measure it"]
    songs = f"{len(found.songs)} song" + ("s" if len(found.songs) > 1 else "")
    return [
        f"not better than {name}: {found.first:.4f} against {found.second:.4f} bits per sample "
        f"over {songs}"
    ]


def _by_chance(candidate: Entry, champion: Entry) -> list[str]:
    found = compare(candidate, champion)
    if found.high < 0:
        return []
    return [
        f"better than the champion by {-found.mean:.4f} bits per sample over {len(found.songs)} "
        f"songs, but not beyond chance: 95 % interval {found.low:+.4f} to {found.high:+.4f}"
    ]


def _faults(candidate: Numbers) -> list[str]:
    """Return what is wrong with the candidate by itself. A missing number is a fault."""
    reasons = [
        f"{key} is {candidate.get(key, 'missing')}: no finite number"
        for key in FINITE
        if not math.isfinite(_number(candidate, key))
    ]
    return reasons + [
        f"{key} is {candidate.get(key, 'missing')}: must be 0"
        for key in ("lag_samples", "clipped_samples")
        if _number(candidate, key) != 0
    ]


def _number(numbers: Numbers, key: str) -> float:
    """Return a number, NaN where it is missing or not a number."""
    value = numbers.get(key)
    return float(value) if isinstance(value, int | float) else math.nan

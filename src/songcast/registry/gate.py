"""The gate: decides whether a version may be served. A pure function of its numbers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from songcast.registry.comparison import Comparison, Entry, compare, number_in

Numbers = Mapping[str, Any]

# Fewer served songs give no verdict.
LEAST_SONGS = 20
FINITE = ("bits_per_sample", "prediction_gain_db")


@dataclass(frozen=True, kw_only=True)
class Gate:
    """``passed``: the version may become champion. ``reasons``: the objections; empty if passed."""

    passed: bool
    reasons: tuple[str, ...]


def gate(
    candidate: Entry, ridge: Entry, champion: Entry | None, live: Comparison | None = None
) -> Gate:
    """Apply the gate to the numbers of ``candidate`` on held-out passages.

    Each argument is a result of ``evaluation_log.measured``: ``{"summary": numbers, "songs":
    {SLUG: numbers}}``, numbers being ``prediction_gain_db``, ``bits_per_sample``, ``lag_samples``,
    ``clipped_samples`` (how many predicted samples lie outside int16). ``champion`` is None
    if there is no other champion. The candidate must be better than ridge on the mean over songs,
    and better than the champion beyond chance (see ``comparison``). ``live``: the comparison with
    the champion on at least 20 served songs, which then replaces that on held-out passages.

    >>> def entry(bits):
    ...     good = {"prediction_gain_db": 40.0, "lag_samples": 0, "clipped_samples": 0}
    ...     return {"summary": good | {"bits_per_sample": bits},
    ...             "songs": {"a": {"bits_per_sample": bits}}}
    >>> gate(entry(6.0), entry(7.0), None)
    Gate(passed=True, reasons=())
    >>> gate(entry(6.0), entry(6.0), None).reasons
    ('not better than ridge: 6.0000 against 6.0000 bits per sample over 1 song',)
    """
    reasons = _own_objections(candidate["summary"])
    if any(key in reason for key in FINITE for reason in reasons):
        return Gate(passed=False, reasons=tuple(reasons))  # without numbers there is no comparison
    reasons += _objection(compare(candidate, ridge), "ridge")
    if live is not None and len(live.songs) < LEAST_SONGS:
        reasons.append(
            f"compared with the champion on {len(live.songs)} served songs: "
            f"{LEAST_SONGS} are needed"
        )
    elif live is not None or champion is not None:
        comparison = live or compare(candidate, champion or {})
        reasons += _objection(comparison, "the champion") or _by_chance(comparison)
    return Gate(passed=not reasons, reasons=tuple(reasons))


def _objection(comparison: Comparison, name: str) -> list[str]:
    """Return the objection if the first is not better than the other on the mean."""
    if comparison.mean < 0:
        return []
    if math.isnan(comparison.mean):  # NaN must never open the gate
        return [f"cannot be compared with {name}: they have no evaluated song in common"]
    songs = f"{len(comparison.songs)} song" + ("s" if len(comparison.songs) > 1 else "")
    return [
        f"not better than {name}: {comparison.first:.4f} against {comparison.second:.4f} "
        f"bits per sample over {songs}"
    ]


def _by_chance(comparison: Comparison) -> list[str]:
    if comparison.high < 0:
        return []
    return [
        f"better than the champion by {-comparison.mean:.4f} bits per sample over "
        f"{len(comparison.songs)} songs, but not beyond chance: 95 % interval "
        f"{comparison.low:+.4f} to {comparison.high:+.4f}"
    ]


def _own_objections(candidate: Numbers) -> list[str]:
    """Return the objections to the candidate's own numbers. A missing number is one."""
    reasons = [
        f"{key} is {candidate.get(key, 'missing')}: not a finite number"
        for key in FINITE
        if not math.isfinite(number_in(candidate, key))
    ]
    return reasons + [
        f"{key} is {candidate.get(key, 'missing')}: must be 0"
        for key in ("lag_samples", "clipped_samples")
        if number_in(candidate, key) != 0
    ]

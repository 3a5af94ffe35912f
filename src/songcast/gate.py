"""The gate: may a version be served? A pure function of measured numbers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Numbers = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Gate:
    """``passed``: the version may become champion. ``reasons``: why not; empty when passed."""

    passed: bool
    reasons: tuple[str, ...]


def gate(candidate: Numbers, ridge: Numbers, champion: Numbers | None) -> Gate:
    """Judge ``candidate`` by its numbers on passages that no fit has seen.

    Each argument is one entry of the summary in metrics/evaluation.json:
    ``prediction_gain_db``, ``bits_per_sample``, ``lag_samples``, ``clipped_samples`` (how many
    predicted samples lie outside int16). ``champion`` is None where there is none, or where the
    candidate itself is the champion.

    >>> good = {"prediction_gain_db": 40.0, "bits_per_sample": 6.0, "lag_samples": 0,
    ...         "clipped_samples": 0}
    >>> gate(good, good | {"bits_per_sample": 7.0}, None)
    Gate(passed=True, reasons=())
    >>> gate(good, good, None).reasons
    ('not better than ridge: 6.0000 against 6.0000 bits per sample',)
    """
    reasons = [*_faults(candidate), *not_better(candidate, ridge, "ridge")]
    if champion is not None:
        reasons += not_better(candidate, champion, "the champion")
    return Gate(passed=not reasons, reasons=tuple(reasons))


def not_better(candidate: Numbers, other: Numbers, name: str) -> list[str]:
    """Return the reason for which ``candidate`` does not beat ``other``, or none."""
    mine, theirs = _number(candidate, "bits_per_sample"), _number(other, "bits_per_sample")
    # An opponent without a number proves nothing: NaN must never open the gate.
    if math.isfinite(theirs) and (not math.isfinite(mine) or mine < theirs):
        return []  # a candidate that is not finite is refused by _faults already
    if not math.isfinite(theirs):
        return [f"{name} has no finite bits per sample to compare with: measure it first"]
    return [f"not better than {name}: {mine:.4f} against {theirs:.4f} bits per sample"]


def _faults(candidate: Numbers) -> list[str]:
    """Return what is wrong with the candidate by itself. A missing number is a fault."""
    reasons = [
        f"{key} is {candidate.get(key, 'missing')}: no finite number"
        for key in ("bits_per_sample", "prediction_gain_db")
        if not math.isfinite(_number(candidate, key))
    ]
    lag = _number(candidate, "lag_samples")
    if lag != 0:
        reasons.append(f"lag_samples is {candidate.get('lag_samples', 'missing')}: must be 0")
    clipped = _number(candidate, "clipped_samples")
    if clipped != 0:
        reasons.append(
            f"clipped_samples is {candidate.get('clipped_samples', 'missing')}: must be 0"
        )
    return reasons


def _number(numbers: Numbers, key: str) -> float:
    """Return a number, NaN where it is missing or not a number."""
    value = numbers.get(key)
    return float(value) if isinstance(value, int | float) else math.nan

"""Compare two versions song by song, with a confidence interval. Pure functions of numbers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The part of an evaluation that a version keeps: {"summary": numbers, "songs": {SLUG: numbers}}.
Entry = Mapping[str, Any]

RESAMPLES, MOST_RESAMPLED = 10_000, 1000
CONFIDENCE = 0.95
BITS = "bits_per_sample"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Bits per sample of one version minus those of another, on their common songs.

    ``songs``: slug to difference; below 0 the first is better. ``mean``: over songs. ``low``,
    ``high``: 95 % confidence interval of that mean. ``first``, ``second``: the two means. All NaN
    if there is no common song, or a number is missing.
    """

    songs: Mapping[str, float]
    mean: float = math.nan
    low: float = math.nan
    high: float = math.nan
    first: float = math.nan
    second: float = math.nan


def compare(first: Entry, second: Entry) -> Comparison:
    """Compare two versions song by song.

    A song is hard or easy for both versions alike, so the differences of songs are resampled
    (percentile bootstrap, 10 000 resamples with a fixed seed; Efron & Tibshirani, *An Introduction
    to the Bootstrap*, chapter 13). With more than 1000 songs the interval is the normal one.

    >>> a = {"songs": {"x": {"bits_per_sample": 5.0}, "y": {"bits_per_sample": 7.0}}}
    >>> b = {"songs": {"x": {"bits_per_sample": 5.5}, "y": {"bits_per_sample": 7.5}}}
    >>> comparison = compare(a, b)
    >>> comparison.mean, comparison.low, comparison.high
    (-0.5, -0.5, -0.5)
    """
    mine, theirs = bits_of_songs(first), bits_of_songs(second)
    slugs = sorted(mine.keys() & theirs.keys())
    if not slugs or not all(math.isfinite(bits[slug]) for bits in (mine, theirs) for slug in slugs):
        return Comparison(songs={})
    a, b = np.array([[mine[slug], theirs[slug]] for slug in slugs]).T
    differences = a - b
    low, high = _interval(differences)
    return Comparison(
        songs=dict(zip(slugs, differences.tolist(), strict=True)),
        mean=float(differences.mean()),
        low=low,
        high=high,
        first=float(a.mean()),
        second=float(b.mean()),
    )


def summary(comparison: Comparison) -> dict[str, float]:
    """Return the number of songs, and the mean difference with its interval."""
    return {
        "songs": len(comparison.songs),
        "mean_bits": comparison.mean,
        "low_bits": comparison.low,
        "high_bits": comparison.high,
    }


def bits_of_songs(entry: Entry) -> dict[str, float]:
    """Return slug to bits per sample, NaN if there is no number."""
    songs: Mapping[str, Any] = entry.get("songs") or {}
    return {slug: number_in(numbers, BITS) for slug, numbers in songs.items()}


def _interval(differences: NDArray[np.float64]) -> tuple[float, float]:
    count = len(differences)
    if count > MOST_RESAMPLED:  # the two intervals agree, and resampling would fill the memory
        margin = 1.96 * float(differences.std(ddof=1)) / math.sqrt(count)
        return float(differences.mean()) - margin, float(differences.mean()) + margin
    # How often each song is drawn, in each resample.
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(drawn @ differences / count, [tail, 1.0 - tail])
    return float(low), float(high)


def number_in(numbers: Mapping[str, Any], key: str) -> float:
    """Return a number, NaN where it is missing or not a number."""
    value = numbers.get(key)
    return float(value) if isinstance(value, int | float) else math.nan

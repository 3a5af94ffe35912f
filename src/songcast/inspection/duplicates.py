"""Recordings that occur twice among songs, by their fingerprints, and what leaks between splits."""

from collections import Counter
from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from songcast.audio.meters import ITEM_SECONDS

Items = NDArray[np.uint32]

# Items that differ in fewer of their 32 bits are alike; unrelated ones differ in 16.
NEAR_BITS = 10
# A match has this mean difference in bits or less, over this many items (6 s) or more.
MATCH_BITS, MATCH_ITEMS = 7.0, 48
# A shorter song of this many items or more matches as a whole, or not at all.
SHORT_ITEMS, SHORT_BITS = 12, 5.0
# Songs are compared if they have this many equal items; an item of many songs does not count.
SHARED_ITEMS, COMMON_SONGS = 2, 50
# A shorter overlap is within the precision of the fingerprint.
LEAST_LEAK_SECONDS = 0.5
# Offsets that are compared in full: those with the most pairs of equal halves of items.
CANDIDATES = 3


def candidates(fingerprints: Mapping[str, Items]) -> list[tuple[str, str]]:
    """Return the pairs of songs that share items, so that few of all pairs need a comparison."""
    names = list(fingerprints)
    pairs = Counter[tuple[int, int]]()
    for byte in range(4):  # the other three bytes are equal
        mask = np.uint32(0xFFFFFFFF ^ (0xFF << 8 * byte))
        unique = [np.unique(items & mask) for items in fingerprints.values()]
        items = np.concatenate([np.zeros(0, np.uint32), *unique])
        owners = np.repeat(np.arange(len(names)), [len(u) for u in unique])
        order = np.argsort(items, kind="stable")
        for group in np.split(owners[order], np.flatnonzero(np.diff(items[order])) + 1):
            if 1 < len(group) <= COMMON_SONGS:
                pairs.update(combinations(group.tolist(), 2))
    return sorted((names[a], names[b]) for (a, b), n in pairs.items() if n >= SHARED_ITEMS)


def duplicates(
    fingerprints: Mapping[str, Items], splits: Mapping[str, Mapping[str, tuple[float, float]]]
) -> list[dict[str, Any]]:
    """Return the pairs of songs that hold the same recording, as in metrics/data.json.

    ``splits``: song -> split -> (start, stop) in seconds. ``leak_seconds``: how much of a test
    passage of one song is in the training passage of the other.
    """
    found = []
    for a, b in candidates(fingerprints):
        span = match(fingerprints[a], fingerprints[b])
        if span is None:
            continue
        start, stop, shift = (n * ITEM_SECONDS for n in span)
        leaks = (
            _leak(splits[a], splits[b], start, stop, shift),
            _leak(splits[b], splits[a], start + shift, stop + shift, -shift),
        )
        found.append(
            {
                "songs": [a, b],
                "seconds": round(stop - start, 2),
                "starts": [round(start, 2), round(start + shift, 2)],
                "leak_seconds": round(max(leaks), 2),
            }
        )
    return found


def _leak(
    a: Mapping[str, tuple[float, float]],
    b: Mapping[str, tuple[float, float]],
    start: float,
    stop: float,
    shift: float,
) -> float:
    """Return the seconds of the training passage of ``a`` that are in the test passage of ``b``.

    The songs agree in the seconds [start, stop) of ``a``, which are ``shift`` later in ``b``.
    """
    if "train" not in a or "test" not in b:
        return 0.0
    first = max(start, a["train"][0], b["test"][0] - shift)
    last = min(stop, a["train"][1], b["test"][1] - shift)
    return last - first if last - first > LEAST_LEAK_SECONDS else 0.0


def match(a: Items, b: Items) -> tuple[int, int, int] | None:
    """Return the longest passage that two songs share: its items [start, stop) in ``a``, and shift.

    Item i of ``a`` is item i + shift of ``b``. None where nothing matches.
    """
    shorter = min(len(a), len(b))
    if shorter < SHORT_ITEMS:
        return None
    least, most_bits = MATCH_ITEMS, MATCH_BITS
    if shorter <= MATCH_ITEMS:
        least, most_bits = int(0.9 * shorter), SHORT_BITS
    halves = ((a >> 16, b >> 16), (a & 0xFFFF, b & 0xFFFF))
    shifts = np.concatenate([_equal_halves(*pair) for pair in halves])
    if not len(shifts):
        return None
    votes = np.bincount(shifts + len(a))
    votes = votes + np.concatenate([votes[1:], [0]])
    best = None
    for shift in np.argsort(votes)[: -CANDIDATES - 1 : -1] - len(a):
        first, last = max(0, -int(shift)), min(len(a), len(b) - int(shift))
        if last - first < least:
            continue
        bits = np.bitwise_count(a[first:last] ^ b[first + shift : last + shift])
        start, stop = _best_span(NEAR_BITS - bits.astype(np.int64))
        alike = stop - start >= least and bits[start:stop].mean() <= most_bits
        if alike and (best is None or stop - start > best[1] - best[0]):
            best = (first + start, first + stop, int(shift))
    return best


def _equal_halves(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.int64]:
    """Return the shift of each pair of equal values; those that occur often say nothing."""
    order = np.argsort(b, kind="stable")
    values = b[order]
    low, high = np.searchsorted(values, a, "left"), np.searchsorted(values, a, "right")
    counts = np.where(high - low <= 20, high - low, 0)
    at = np.repeat(np.arange(len(a)), counts)
    inner = np.arange(len(at)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.asarray(order[np.repeat(low, counts) + inner] - at)


def _best_span(score: NDArray[np.int64]) -> tuple[int, int]:
    """Return the span [start, stop) with the largest sum."""
    sums = np.concatenate([[0], np.cumsum(score)])
    lowest = np.minimum.accumulate(sums)
    stop = int(np.argmax(sums - lowest))
    return int(np.argmin(sums[: stop + 1])), stop

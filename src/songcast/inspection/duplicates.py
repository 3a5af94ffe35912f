"""Recordings that occur twice among songs, by their fingerprints, and what leaks between splits."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from songcast.audio.meters import ITEM_SECONDS

Items = NDArray[np.uint32]
Places = NDArray[np.int64]

# Items that differ in fewer of their 32 bits are alike; unrelated ones differ in 16.
NEAR_BITS = 10
# A match has this mean difference in bits or less, over this many items (6 s) or more.
MATCH_BITS, MATCH_ITEMS = 7.0, 48
# Shifted, the passages differ in so many more bits per item: at least 5.6 in 147 of 148 copies, and
# fewer than this where two songs fade out, rest or hold a note.
CONTRAST_BITS = 4.5
# A shorter song of this many items or more matches as a whole, or not at all.
SHORT_ITEMS, SHORT_BITS = 12, 5.0
# Songs are compared if they share so many items. Of 6 105 pairs of real songs, 62 did.
SHARED_ITEMS = 6
# An item that occurs more often than this, in all songs together, is no sign of a match.
COMMON = 50
# A shorter overlap is within the precision of the fingerprint.
LEAST_LEAK_SECONDS = 0.5
# Offsets that are compared in full: those with the most pairs of equal halves of items.
CANDIDATES = 3


def candidates(fingerprints: Mapping[str, Items]) -> list[tuple[str, str]]:
    """Return the pairs of songs that share items at one shift, or at two beside each other.

    Few of all pairs need a comparison then. An item counts once for each three of its four bytes
    that are shared.
    """
    names = list(fingerprints)
    places = np.array([len(items) for items in fingerprints.values()], np.int64)
    owners = np.repeat(np.arange(len(names)), places)
    items = np.concatenate([np.zeros(0, np.uint32), *fingerprints.values()])
    at = np.arange(len(items)) - np.repeat(np.cumsum(places) - places, places)
    # A held note repeats an item: the first one stands for all.
    kept = np.flatnonzero((at == 0) | (items != np.roll(items, 1)))
    items, owners, at = items[kept], owners[kept], at[kept]
    # A pair of items as one number: the songs and, in the last place, the shift.
    width = 2 * int(places.max(initial=0)) + 1
    hits = [
        (owners[a] * len(names) + owners[b]) * width + at[b] - at[a] + width // 2
        for byte in range(4)
        for a, b in _equal_items(items & ~np.uint32(0xFF << 8 * byte), owners)
    ]
    found, counts = np.unique(np.concatenate([np.zeros(0, np.int64), *hits]), return_counts=True)
    counts[:-1] += np.where(np.diff(found) == 1, counts[1:], 0)
    pairs = np.unique(found[counts >= SHARED_ITEMS] // width)
    return [(names[pair // len(names)], names[pair % len(names)]) for pair in pairs.tolist()]


def _equal_items(items: Items, owners: NDArray[Any]) -> Iterator[tuple[Places, Places]]:
    """Yield the places of equal items of two songs, those of the first song first.

    An item that occurs more than ``COMMON`` times says nothing.
    """
    order = np.argsort(items, kind="stable")  # by item, then by song
    items, owners = items[order], owners[order]
    ends = np.flatnonzero(np.append(items[1:] != items[:-1], True)[: len(items)]) + 1
    counts = np.diff(ends, prepend=0)
    left = np.repeat(np.where(counts <= COMMON, ends, 0), counts) - np.arange(len(items))
    for step in range(1, COMMON):
        first = np.flatnonzero(left > step)
        first = first[owners[first] != owners[first + step]]
        yield order[first], order[first + step]


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
        one, other = a[first:last], b[first + shift : last + shift]
        start, stop = _best_span(NEAR_BITS - np.bitwise_count(one ^ other).astype(np.int64))
        if stop - start < least or (best and stop - start <= best[1] - best[0]):
            continue
        bits, shifted_bits = _differences(one[start:stop], other[start:stop])
        if bits <= most_bits and shifted_bits >= bits + CONTRAST_BITS:
            best = (first + start, first + stop, int(shift))
    return best


def _differences(a: Items, b: Items) -> tuple[float, float]:
    """Return in how many bits items of two passages differ, as they are and shifted."""
    lags = [0, *range(len(a) // 3, len(a) // 2 + 1)]
    bits = [np.bitwise_count(a[lag:] ^ b[: len(b) - lag]).mean() for lag in lags]
    return float(bits[0]), float(np.mean(bits[1:]))


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

"""Short, safe, distinct names for songs."""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import PurePath

_MAX_CHARACTERS = 100


def slugs(names: Iterable[str]) -> dict[str, str]:
    """Give each file name its slug: lower-case ASCII letters, digits and ``-``.

    Accents are dropped; a name with nothing left gets the hash of itself. Names that would
    share a slug all take their suffix into it, then a number in the order of the names. The
    order in which the names come does not matter.

    >>> slugs(["Für Elise.wav", "song.mp3", "Song.wav"])
    {'Für Elise.wav': 'fur-elise', 'Song.wav': 'song-wav', 'song.mp3': 'song-mp3'}
    """
    names = sorted(set(names))
    plain = {name: _slug(PurePath(name).stem) for name in names}
    shared = Counter(plain.values())
    chosen: dict[str, str] = {}
    taken = {slug for slug, count in shared.items() if count == 1}
    for name in names:
        slug = plain[name]
        if shared[slug] > 1:
            base = candidate = f"{slug}-{_slug(PurePath(name).suffix)}"
            number = 1
            while candidate in taken:
                number += 1
                candidate = f"{base}-{number}"
            slug = candidate
            taken.add(slug)
        chosen[name] = slug
    return chosen


def _slug(text: str) -> str:
    ascii_only = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^a-z0-9]+", "-", ascii_only.lower())[:_MAX_CHARACTERS].strip("-")
    if slug:
        return slug
    canonical = unicodedata.normalize("NFC", text).encode("utf-8", "surrogateescape")
    return f"song-{hashlib.sha256(canonical).hexdigest()[:8]}"

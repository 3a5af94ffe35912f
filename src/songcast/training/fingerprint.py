"""What a checkpoint belongs to: params, songs and code. Another one is never resumed."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from songcast.data.corpus import PreparedSong

PACKAGE = Path(__file__).parents[1]


def fingerprint(params: Mapping[str, Any], songs: Iterable[PreparedSong], *more: str) -> str:
    """Return a digest that changes with the params, the songs, their splits and the code."""
    digest = hashlib.sha256(json.dumps([params, *more], sort_keys=True).encode())
    for song in songs:
        said = [song.slug, song.sha256, song.frames, song.sample_rate_hz, dict(song.splits)]
        digest.update(json.dumps(said, sort_keys=True).encode())
    for path in sorted(path for path in PACKAGE.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()

"""The sound of the report: passages from listening/, each track as FLAC in base64.

Every browser decodes FLAC to the exact samples of the WAV files, without the delay of an encoder.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from songcast.audio.songs import Song, base64_of, read_song

Samples = NDArray[np.int16]

ORIGINAL, CONTINUATION = "original", "continuation"
PREDICTED = ("pred_song", "pred_song_updated")
RESIDUAL_OF = PREDICTED[-1]  # the track whose residual the page plays
LIMIT_BYTES = 20_000_000  # of base64, for all songs together


@dataclass(frozen=True, kw_only=True)
class Passage:
    """The tracks of one song, sample-aligned, each int16 (frames, channels).

    ``tracks``: ``original``, ``pred_song``, ``pred_song_updated``, and ``continuation`` where it
    exists, padded with silence to the length of the first.
    """

    slug: str
    sample_rate_hz: int
    tracks: Mapping[str, Samples]

    @property
    def seconds(self) -> float:
        """Duration of all tracks."""
        return len(self.tracks[ORIGINAL]) / self.sample_rate_hz

    @property
    def amplified_db(self) -> int:
        """The gain in whole dB that raises the peak of the residual to that of the original."""
        x = self.tracks[ORIGINAL].astype(float)
        loudest = float(np.max(np.abs(x - self.tracks[RESIDUAL_OF])))
        return math.floor(20 * math.log10(max(np.max(np.abs(x)), 1.0) / max(loudest, 1.0)))


def read_passages(listening: Path) -> list[Passage]:
    """Read every song's folder below ``listening``, sorted by slug. Raises ``AudioError``."""
    return [_read(folder) for folder in sorted(listening.iterdir()) if folder.is_dir()]


def encoded(
    passages: Sequence[Passage], limit: int = LIMIT_BYTES
) -> list[tuple[Passage, dict[str, Any]]]:
    """Return each passage with its JSON document for the player, in ``limit`` bytes in total.

    Where all passages together are larger, the same share of each is cut off its end.
    """
    whole = [(passage, _document(passage)) for passage in passages]
    size = sum(len(text) for _, document in whole for text in document["tracks"].values())
    if size <= limit:
        return whole
    cut = [_first(passage, 0.95 * limit / size) for passage in passages]
    return [(passage, _document(passage)) for passage in cut]


def _first(passage: Passage, share: float) -> Passage:
    frames = max(1, int(len(passage.tracks[ORIGINAL]) * share))
    return replace(passage, tracks={name: x[:frames] for name, x in passage.tracks.items()})


def _read(folder: Path) -> Passage:
    songs = {
        name: read_song(folder / f"{name}.wav")
        for name in (ORIGINAL, *PREDICTED, CONTINUATION)
        if name != CONTINUATION or (folder / f"{name}.wav").is_file()
    }
    frames = songs[ORIGINAL].frames
    return Passage(
        slug=folder.name,
        sample_rate_hz=songs[ORIGINAL].sample_rate_hz,
        tracks={
            name: np.pad(song.samples[:frames], ((0, max(frames - song.frames, 0)), (0, 0)))
            for name, song in songs.items()
        },
    )


def _document(passage: Passage) -> dict[str, Any]:
    rate_hz = passage.sample_rate_hz
    songs = {
        name: Song(samples=samples, sample_rate_hz=rate_hz, name=name)
        for name, samples in passage.tracks.items()
    }
    return {
        "slug": passage.slug,
        "sampleRate": rate_hz,
        "tracks": {name: base64_of(song, "flac") for name, song in songs.items()},
        "residualOf": RESIDUAL_OF,
        "amplifiedDb": passage.amplified_db,
    }

"""The sound inside the report: FLAC, base64, the predictions carried as their residuals.

FLAC, because every browser decodes it to the very samples of the WAVs, with no encoder's delay;
residuals, because they pack a third smaller than predictions. The page subtracts them again:
prediction = original − residual, modulo 2^16, exact.
"""

import base64
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from songcast.audio.songs import Song, read_song, write_song

Samples = NDArray[np.int16]

ORIGINAL, CONTINUATION = "original", "continuation"
PREDICTED = ("pred_song", "pred_song_updated")
LIMIT_BYTES = 14_000_000  # of base64, for all songs together: the page stays below 15 MB


@dataclass(frozen=True, kw_only=True)
class Passage:
    """What there is to hear of one song: int16 (frames, channels) each, sample-aligned.

    ``tracks``: ``original`` first, then those of pred_song, pred_song_updated and continuation
    that exist. Shorter ones are followed by silence.
    """

    slug: str
    sample_rate_hz: int
    tracks: Mapping[str, Samples]

    @property
    def seconds(self) -> float:
        """Duration."""
        return len(self.tracks[ORIGINAL]) / self.sample_rate_hz

    @property
    def residual_of(self) -> str | None:
        """The track whose residual is to be heard: the last prediction there is."""
        return next((name for name in reversed(PREDICTED) if name in self.tracks), None)

    @property
    def amplified_db(self) -> int:
        """By how many whole dB the residual can be amplified to peak where the original does."""
        if self.residual_of is None:
            return 0
        x = self.tracks[ORIGINAL].astype(float)
        loudest = float(np.max(np.abs(x - self.tracks[self.residual_of])))
        return math.floor(20 * math.log10(max(np.max(np.abs(x)), 1.0) / max(loudest, 1.0)))


def read_passages(listening: Path) -> list[Passage]:
    """Read every song's folder below ``listening``, sorted by slug. Raises ``AudioError``."""
    return [_read(folder) for folder in sorted(listening.iterdir()) if folder.is_dir()]


def packed(
    passages: Sequence[Passage], limit: int = LIMIT_BYTES
) -> list[tuple[Passage, dict[str, Any]]]:
    """Return each passage with what the player needs of it, JSON-able, within ``limit`` bytes.

    Where all passages together are larger, only the first part of each is taken.
    """
    whole = [(passage, _pack(passage)) for passage in passages]
    size = sum(len(text) for _, song in whole for text in song["tracks"].values())
    if size <= limit:
        return whole
    cut = [_first(passage, 0.95 * limit / size) for passage in passages]
    return [(passage, _pack(passage)) for passage in cut]


def _first(passage: Passage, share: float) -> Passage:
    frames = max(1, int(len(passage.tracks[ORIGINAL]) * share))
    return replace(passage, tracks={name: x[:frames] for name, x in passage.tracks.items()})


def _read(folder: Path) -> Passage:
    songs = {
        name: read_song(folder / f"{name}.wav")
        for name in (ORIGINAL, *PREDICTED, CONTINUATION)
        if (folder / f"{name}.wav").is_file() or name == ORIGINAL
    }
    shape = songs[ORIGINAL].samples.shape
    return Passage(
        slug=folder.name,
        sample_rate_hz=songs[ORIGINAL].sample_rate_hz,
        tracks={name: _shaped(song.samples, shape) for name, song in songs.items()},
    )


def _shaped(samples: Samples, shape: tuple[int, ...]) -> Samples:
    frames = min(len(samples), shape[0])
    whole = np.zeros(shape, np.int16)
    whole[:frames] = samples[:frames]
    return whole


def _pack(passage: Passage) -> dict[str, Any]:
    original, rate_hz = passage.tracks[ORIGINAL], passage.sample_rate_hz
    sent = {
        # int16 wraps around, in NumPy as in the page: no residual is too large.
        name: original - samples if name in PREDICTED else samples
        for name, samples in passage.tracks.items()
    }
    return {
        "slug": passage.slug,
        "sampleRate": rate_hz,
        "tracks": {name: _flac(samples, rate_hz) for name, samples in sent.items()},
        "residualOf": passage.residual_of,
        "amplifiedDb": passage.amplified_db,
    }


def _flac(samples: Samples, sample_rate_hz: int) -> str:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "track.flac"
        write_song(Song(samples=samples, sample_rate_hz=sample_rate_hz, name=path.stem), path)
        return base64.b64encode(path.read_bytes()).decode()

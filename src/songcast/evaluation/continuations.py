"""How good continuations are: against what the songs really did next, by horizon. No files."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from songcast.continuation.baselines import BASELINES
from songcast.continuation.conditioning import Prompt
from songcast.continuation.model import ContinuationModel
from songcast.data.corpus import PreparedSong
from songcast.evaluation import spectral
from songcast.evaluation.forecasts import finite
from songcast.evaluation.horizons import CONTINUATION, HORIZONS_SECONDS

Samples = NDArray[np.int16]
Values = list[float | None]

# What ``measures`` gives, in this order.
MEASURES = (
    "log_mel_distance_db",
    "spectral_distance_db",
    "onset_correlation",
    "chroma_similarity",
    "level_difference_db",
    "flatness_difference_db",
    "silent_share",
    "clipped_share",
)
# Onsets and chroma need time to be compared.
SHORTEST_RHYTHM_SECONDS = 0.5


def continuation_report(
    songs: Mapping[str, Mapping[str, Mapping[str, Values]]],
) -> dict[str, Any]:
    """Return what ``measure_song`` found of ``songs``, by slug, with the means over songs.

    ``{"horizons_seconds": [[0, 0.1], ..], "summary": {NAME: {MEASURE: [one per horizon]}},
    "songs": {SLUG: {NAME: {...}}}}`` with None where a song is too short for the horizon.
    """
    return {
        "horizons_seconds": [list(horizon) for horizon in HORIZONS_SECONDS],
        "summary": summarise(songs),
        "songs": dict(songs),
    }


def measure_song(
    model: ContinuationModel, song: PreparedSong, cut: int, seconds: float
) -> dict[str, dict[str, Values]]:
    """Continue ``song`` from frame ``cut`` in every way; measures by name."""
    rate = song.sample_rate_hz
    true = song.samples[cut : cut + round(seconds * rate)]
    prompt = Prompt(song.samples[:cut], rate)
    tracks = {CONTINUATION: model.generate(prompt, len(true), temperature=1.0, seed=0)}
    tracks |= {name: rival(prompt, len(true)) for name, rival in BASELINES.items()}
    return {name: by_horizon(true, track, rate) for name, track in tracks.items()}


def by_horizon(true: Samples, found: Samples, sample_rate_hz: int) -> dict[str, Values]:
    """Return each measure of ``found`` against ``true`` (frames, channels) at every horizon.

    None where ``true`` has less than 50 ms of it.
    """
    parts = []
    for start, stop in HORIZONS_SECONDS:
        piece = slice(round(start * sample_rate_hz), round(stop * sample_rate_hz))
        long_enough = len(true) > piece.start + round(0.05 * sample_rate_hz)
        parts.append(measures(true[piece], found[piece], sample_rate_hz) if long_enough else {})
    return {name: [part.get(name) for part in parts] for name in MEASURES}


def measures(true: Samples, found: Samples, sample_rate_hz: int) -> dict[str, float | None]:
    """Return all ``MEASURES`` of one stretch (frames, channels) int16."""
    a, b = spectral.mono(true), spectral.mono(found)
    rhythm = len(true) >= SHORTEST_RHYTHM_SECONDS * sample_rate_hz
    onset = spectral.onset_correlation(a, b, sample_rate_hz) if rhythm else None
    chroma = spectral.chroma_similarity(a, b, sample_rate_hz) if rhythm else None
    return {
        "log_mel_distance_db": spectral.log_mel_distance_db(a, b, sample_rate_hz),
        "spectral_distance_db": spectral.spectral_distance_db(a, b),
        "onset_correlation": onset,
        "chroma_similarity": chroma,
        "level_difference_db": spectral.level_db(b) - spectral.level_db(a),
        "flatness_difference_db": spectral.flatness_difference_db(a, b),
        "silent_share": spectral.silent_share(b, sample_rate_hz),
        "clipped_share": spectral.clipped_share(found),
    }


def summarise(songs: Mapping[str, Mapping[str, Mapping[str, Values]]]) -> dict[str, Any]:
    """Return means over songs, by name, measure and horizon; levels and flatness by amount."""
    first = next(iter(songs.values()), {})
    return {
        name: {
            measure: _means(
                [song[name][measure] for song in songs.values()], "difference" in measure
            )
            for measure in first[name]
        }
        for name in first
    }


def _means(rows: list[Values], unsigned: bool) -> Values:
    means: Values = []
    for column in zip(*rows, strict=True):
        known = np.array([value for value in column if value is not None])
        values = np.abs(known) if unsigned else known
        means.append(finite(float(np.mean(values))) if len(values) else None)
    return means

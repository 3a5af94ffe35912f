"""Measures of continuations against the true continuation of a song, by horizon."""

import numpy as np
from numpy.typing import NDArray

from songcast.continuation.baselines import BASELINES
from songcast.continuation.model import ContinuationModel
from songcast.continuation.prompt import Prompt
from songcast.data.corpus import PreparedSong
from songcast.evaluation import spectral
from songcast.evaluation.summary import CONTINUATION, HORIZONS_SECONDS, Values

Samples = NDArray[np.int16]

# The measures of ``measure_passage``, in this order.
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
# Shorter passages have no onset correlation and no chroma similarity.
SHORTEST_RHYTHM_SECONDS = 0.5
SHORTEST_PASSAGE_SECONDS = 0.05


def measure_continuations(
    model: ContinuationModel, song: PreparedSong, start: int, seconds: float
) -> dict[str, dict[str, Values]]:
    """Continue ``song`` from frame ``start`` with the model and every baseline, at temperature 0.

    Returns the measures over ``seconds`` by name: measure to one value per horizon.
    """
    rate = song.sample_rate_hz
    true = song.samples[start : start + round(seconds * rate)]
    prompt = Prompt(song.samples[:start], rate)
    models = {CONTINUATION: model, **model.baselines()}
    tracks = {
        name: each.generate(prompt, len(true), temperature=0.0, seed=0)
        for name, each in models.items()
    }
    tracks |= {name: baseline(prompt, len(true)) for name, baseline in BASELINES.items()}
    return {name: by_horizon(true, track, rate) for name, track in tracks.items()}


def by_horizon(true: Samples, track: Samples, sample_rate_hz: int) -> dict[str, Values]:
    """Return each measure of ``track`` against ``true``, both (frames, channels), per horizon.

    The value is None where ``true`` has less than 50 ms of the horizon.
    """
    parts = []
    for start, stop in HORIZONS_SECONDS:
        piece = slice(round(start * sample_rate_hz), round(stop * sample_rate_hz))
        shortest = piece.start + round(SHORTEST_PASSAGE_SECONDS * sample_rate_hz)
        long_enough = len(true) > shortest
        passages = true[piece], track[piece]
        parts.append(measure_passage(*passages, sample_rate_hz) if long_enough else {})
    return {name: [part.get(name) for part in parts] for name in MEASURES}


def measure_passage(true: Samples, track: Samples, sample_rate_hz: int) -> dict[str, float | None]:
    """Return all ``MEASURES`` of one passage, (frames, channels) int16."""
    a, b = spectral.mono(true), spectral.mono(track)
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
        "clipped_share": spectral.clipped_share(track),
    }

"""Summaries of measures over songs, as in metrics/evaluation.json, and their names in MLflow."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Measures = dict[str, Any]
# One value per horizon, None where a song is too short for the horizon.
Values = list[float | None]
SongValues = Mapping[str, Mapping[str, Values]]

# The key in metrics/evaluation.json, and there the name of the model beside the baselines.
CONTINUATION = "continuation"
# The lag of a forecast says nothing in noise, which cannot be predicted, and in music that is as
# quiet as the rounding to int16.
LEAST_GAIN_DB, LEAST_BITS = 6.0, 1.0
HORIZONS_SECONDS = ((0.0, 0.1), (0.1, 1.0), (1.0, 5.0), (5.0, 10.0))


def finite(value: float) -> float | None:
    """Return ``value``, or None for infinity and NaN, which JSON does not have."""
    return float(value) if np.isfinite(value) else None


def summarise_forecasts(songs: Mapping[str, Mapping[str, Measures]]) -> dict[str, Measures]:
    """Return means over songs (and channels), the largest lag and all clipped samples.

    ``songs``: slug to forecaster to measures, as ``measure_passages`` returns them. Returns
    forecaster to measures. A song counts once, however many channels it has. The lags of noise and
    of nearly silent songs are left out.

    >>> loud = {"prediction_gain_db": [30.0], "bits_per_sample": 5.0, "lag_samples": [0]}
    >>> dither = {"prediction_gain_db": [0.1], "bits_per_sample": 1.5, "lag_samples": [5]}
    >>> songs = {"a": {"train": loud}, "b": {"train": dither}}
    >>> for song in songs.values():
    ...     song["train"]["clipped_samples"] = 0
    >>> summarise_forecasts(songs)["train"]["lag_samples"]
    0
    """
    names = list(next(iter(songs.values()))) if songs else []
    return {name: _mean_forecast([measures[name] for measures in songs.values()]) for name in names}


def _mean_forecast(measures: list[Measures]) -> Measures:
    gains = [
        np.mean([g for g in m["prediction_gain_db"] if g is not None] or [0.0]) for m in measures
    ]
    lags = [
        lag
        for m in measures
        for lag, gain in zip(m["lag_samples"], m["prediction_gain_db"], strict=True)
        if m["bits_per_sample"] >= LEAST_BITS and gain is not None and gain >= LEAST_GAIN_DB
    ]
    return {
        "prediction_gain_db": float(np.mean(gains)),
        "bits_per_sample": float(np.mean([m["bits_per_sample"] for m in measures])),
        "lag_samples": max(lags, key=abs, default=0),
        "clipped_samples": sum(m["clipped_samples"] for m in measures),
    }


def retraining(songs: Mapping[str, Mapping[str, Measures]], new: Sequence[str]) -> dict[str, Any]:
    """Return what retraining saves, in bits per sample: means over the new and the old songs.

    ``songs``: slug to forecaster to measures. ``new``: slugs; those without measures are left out.
    ``old_songs_gain_bits`` below 0 is forgetting. A mean over no song is None.

    >>> a = {"train": {"bits_per_sample": 6.5}, "retrain": {"bits_per_sample": 6.25}}
    >>> retraining({"a": a}, ["a", "too-short"])
    {'new_songs': ['a'], 'new_songs_gain_bits': 0.25, 'old_songs_gain_bits': None}
    """
    groups: dict[bool, list[float]] = {True: [], False: []}
    for slug, measures in songs.items():
        before, after = (measures[name]["bits_per_sample"] for name in ("train", "retrain"))
        groups[slug in new].append(before - after)
    means = {key: float(np.mean(gains)) if gains else None for key, gains in groups.items()}
    return {
        "new_songs": [slug for slug in new if slug in songs],
        "new_songs_gain_bits": means[True],
        "old_songs_gain_bits": means[False],
    }


def continuation_report(songs: Mapping[str, SongValues]) -> dict[str, Any]:
    """Return the entry ``continuation`` of metrics/evaluation.json.

    ``songs``: slug to name to measure to one value per horizon, as ``measure_continuations``
    returns them. Returns ``{"horizons_seconds": [[0, 0.1], ..], "summary": {NAME: {MEASURE: [one
    per horizon]}}, "songs": songs}``.
    """
    return {
        "horizons_seconds": [list(horizon) for horizon in HORIZONS_SECONDS],
        "summary": summarise_continuations(songs),
        "songs": dict(songs),
    }


def summarise_continuations(songs: Mapping[str, SongValues]) -> dict[str, dict[str, Values]]:
    """Return means over songs by name and measure, per horizon; differences by absolute value."""
    first = next(iter(songs.values()), {})
    return {
        name: {
            measure: _means([song[name][measure] for song in songs.values()], measure)
            for measure in first[name]
        }
        for name in first
    }


def _means(songs: list[Values], measure: str) -> Values:
    means: Values = []
    for column in zip(*songs, strict=True):
        values = np.array([value for value in column if value is not None])
        if "difference" in measure:
            values = np.abs(values)
        means.append(finite(float(np.mean(values))) if len(values) else None)
    return means

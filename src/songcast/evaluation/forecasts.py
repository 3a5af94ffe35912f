"""Forecasting with many models at once, and what is measured of it. No files, no MLflow."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from songcast.audio.songs import Song
from songcast.forecasting import metrics
from songcast.forecasting.cascade import Cascade
from songcast.forecasting.distribution import BLOCK_FRAMES, HIGHEST, LOWEST, Mixture
from songcast.forecasting.forecaster import Forecast, Forecaster
from songcast.forecasting.front_end import FrontEndSettings, Heard
from songcast.forecasting.lstm import Lstm, LstmSession
from songcast.forecasting.prefetch import ahead
from songcast.forecasting.stacking import Combiner

Measures = dict[str, Any]


def forecast_passage(
    models: Mapping[str, Forecaster], song: Song, start: int, stop: int
) -> dict[str, Forecast]:
    """Forecast the frames [start, stop) with each model; the song is heard from its first frame.

    A model that forgets (``memory_frames``) is spared what it cannot remember. Models with the
    same front end share one: its experts hear the song once.
    """
    found: dict[str, Forecast] = {}
    shared: dict[FrontEndSettings, dict[str, Forecaster]] = {}
    for name, model in models.items():
        settings = front_end_of(model, models.values())
        if settings is not None:
            shared.setdefault(settings, {})[name] = model
            continue
        first = 0 if model.memory_frames is None else max(start - model.memory_frames, 0)
        part = Song(
            samples=song.samples[first:stop], sample_rate_hz=song.sample_rate_hz, name=song.name
        )
        found[name] = model.forecast(part).passage(start - first, stop - first)
    for settings, group in shared.items():
        found |= _forecast_together(settings, group, song, start, stop)
    return {name: found[name] for name in models}


def front_end_of(model: Forecaster, models: Iterable[Forecaster] = ()) -> FrontEndSettings | None:
    """Return the front end that ``model`` can listen through, None for one without.

    The cascade can take its experts from a network's wider bank that begins with them.
    """
    if isinstance(model, Lstm):
        return model.front_end if model.front_end.taps is None else None
    if not isinstance(model, Cascade):
        return None
    chains = model.settings.chains
    wider = (
        other.front_end
        for other in models
        if isinstance(other, Lstm)
        and other.front_end.kind == "cascade"
        and other.front_end.experts.chains[: len(chains)] == chains
    )
    return next(wider, FrontEndSettings(kind="cascade", experts=model.settings))


def _forecast_together(
    settings: FrontEndSettings,
    models: Mapping[str, Forecaster],
    song: Song,
    start: int,
    stop: int,
) -> dict[str, Forecast]:
    sessions = {name: _follower(model, song.channels) for name, model in models.items()}
    samples = np.ascontiguousarray(song.samples[start:stop])
    parts: dict[str, list[tuple[NDArray[np.float64], NDArray[np.float64]]]]
    parts = {name: [] for name in models}
    for first, heard in _hear_ahead(settings, song, stop):
        last = first + len(heard.samples)
        for name, follow in sessions.items():
            mixture = follow(heard)
            if last <= start:
                continue
            wanted = _rows(mixture, max(start - first, 0))
            inside = heard.samples[max(start - first, 0) :]
            parts[name].append((wanted.mean, wanted.bits(inside)))
    return {
        name: Forecast(
            samples=samples,
            mean=np.concatenate([mean for mean, _ in found]),
            bits=np.concatenate([bits for _, bits in found]),
        )
        for name, found in parts.items()
    }


def _follower(model: Forecaster, channels: int) -> Callable[[Heard], Mixture]:
    """Return what makes ``model``'s mixtures of a front end's blocks, heard in order."""
    if isinstance(model, Lstm):
        return LstmSession(model, channels).follow
    if not isinstance(model, Cascade):
        raise TypeError(f"{model.name} has no front end")
    experts = len(model.settings.names)
    combiner = Combiner(channels, experts)

    def combine(heard: Heard) -> Mixture:
        means = np.ascontiguousarray(heard.means[..., :experts])
        return combiner.hear(heard.samples, means).mixture

    return combine


def _hear_ahead(settings: FrontEndSettings, song: Song, stop: int) -> Iterator[tuple[int, Heard]]:
    """Return pairs (first frame, block heard), the experts working one block ahead in a thread."""
    front_end = settings.open(song.channels)

    def hear(first: int) -> Heard:
        block = song.samples[first : min(first + BLOCK_FRAMES, stop)]
        return front_end.hear(np.ascontiguousarray(block))

    return ahead(hear, range(0, stop, BLOCK_FRAMES))


def _rows(mixture: Mixture, first: int) -> Mixture:
    return Mixture(
        weights=mixture.weights[first:],
        locations=mixture.locations[first:],
        scales=mixture.scales[first:],
    )


def measure(forecast: Forecast) -> Measures:
    """Measures of one forecast, JSON-able: gain (dB) and lag per channel, bits, clipping.

    ``clipped_samples``: predictions at the edge of the int16 range where the song is not.
    """
    edge = (forecast.mean <= LOWEST) | (forecast.mean >= HIGHEST)
    loud = (forecast.samples == LOWEST) | (forecast.samples == HIGHEST)
    return {
        "prediction_gain_db": [finite(g) for g in forecast.prediction_gain_db],
        "bits_per_sample": forecast.bits_per_sample,
        "lag_samples": metrics.lag_samples(forecast.samples, forecast.mean).tolist(),
        "clipped_samples": int(np.count_nonzero(edge & ~loud)),
    }


def summarise(songs: Mapping[str, Mapping[str, Measures]]) -> dict[str, Measures]:
    """Means over songs (and channels), the worst lag, all clipped samples; by forecaster."""
    names = list(next(iter(songs.values()))) if songs else []
    return {name: _summary([measures[name] for measures in songs.values()]) for name in names}


def _summary(measures: list[Measures]) -> Measures:
    gains = [
        np.mean([g for g in m["prediction_gain_db"] if g is not None] or [0.0]) for m in measures
    ]
    lags = [lag for m in measures for lag in m["lag_samples"]]
    return {
        "prediction_gain_db": float(np.mean(gains)),
        "bits_per_sample": float(np.mean([m["bits_per_sample"] for m in measures])),
        "lag_samples": max(lags, key=abs, default=0),
        "clipped_samples": sum(m["clipped_samples"] for m in measures),
    }


def finite(value: float) -> float | None:
    """Return ``value``, None where JSON has no number for it."""
    return float(value) if np.isfinite(value) else None

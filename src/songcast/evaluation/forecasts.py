"""Forecasting with many models at once, and what is measured of it. No files, no MLflow."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from songcast.audio.songs import Song
from songcast.forecasting import metrics
from songcast.forecasting.cascade import Cascade
from songcast.forecasting.distribution import BLOCK_FRAMES, HIGHEST, LOWEST, LogisticMixture
from songcast.forecasting.forecaster import Forecast, Forecaster
from songcast.forecasting.front_end import EncodedBlock, FrontEndSettings
from songcast.forecasting.lstm import LstmForecaster, LstmSession
from songcast.forecasting.prefetch import prefetch
from songcast.forecasting.stacking import Stacking

Measures = dict[str, Any]


def forecast_passage(
    models: Mapping[str, Forecaster], song: Song, start: int, stop: int
) -> dict[str, Forecast]:
    """Forecast the frames [start, stop) with each model; the song is heard from its first frame.

    A model that forgets (``warm_up_frames``) is spared what it cannot remember. Models with the
    same front end share one: its experts hear the song once.
    """
    found: dict[str, Forecast] = {}
    shared: dict[FrontEndSettings, dict[str, Forecaster]] = {}
    for name, model in models.items():
        settings = front_end_of(model, models.values())
        if settings is not None:
            shared.setdefault(settings, {})[name] = model
            continue
        first = 0 if model.warm_up_frames is None else max(start - model.warm_up_frames, 0)
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
    if isinstance(model, LstmForecaster):
        return model.front_end if model.front_end.taps is None else None
    if not isinstance(model, Cascade):
        return None
    chains = model.settings.chains
    wider = (
        other.front_end
        for other in models
        if isinstance(other, LstmForecaster)
        and other.front_end.kind == "cascade"
        and other.front_end.filter_bank.chains[: len(chains)] == chains
    )
    return next(wider, FrontEndSettings(kind="cascade", filter_bank=model.settings))


def _forecast_together(
    settings: FrontEndSettings,
    models: Mapping[str, Forecaster],
    song: Song,
    start: int,
    stop: int,
) -> dict[str, Forecast]:
    sessions = {name: _decoder(model, song.channels) for name, model in models.items()}
    samples = np.ascontiguousarray(song.samples[start:stop])
    parts: dict[str, list[tuple[NDArray[np.float64], NDArray[np.float64]]]]
    parts = {name: [] for name in models}
    for first, encoded in _encoded_blocks(settings, song, stop):
        last = first + len(encoded.samples)
        for name, decode in sessions.items():
            mixture = decode(encoded)
            if last <= start:
                continue
            wanted = _rows(mixture, max(start - first, 0))
            inside = encoded.samples[max(start - first, 0) :]
            parts[name].append((wanted.mean, wanted.bits(inside)))
    return {
        name: Forecast(
            samples=samples,
            mean=np.concatenate([mean for mean, _ in found]),
            bits=np.concatenate([bits for _, bits in found]),
        )
        for name, found in parts.items()
    }


def _decoder(model: Forecaster, channels: int) -> Callable[[EncodedBlock], LogisticMixture]:
    """Return what makes ``model``'s mixtures of a front end's blocks, encoded in order."""
    if isinstance(model, LstmForecaster):
        return LstmSession(model, channels).decode
    if not isinstance(model, Cascade):
        raise TypeError(f"{model.name} has no front end")
    experts = len(model.settings.names)
    stacking = Stacking(channels, experts)

    def combine(encoded: EncodedBlock) -> LogisticMixture:
        means = np.ascontiguousarray(encoded.means[..., :experts])
        return stacking.combine(encoded.samples, means).mixture

    return combine


def _encoded_blocks(
    settings: FrontEndSettings, song: Song, stop: int
) -> Iterator[tuple[int, EncodedBlock]]:
    """Yield (first frame, encoded block); a thread encodes the next block."""
    front_end = settings.open(song.channels)

    def encode(first: int) -> EncodedBlock:
        block = song.samples[first : min(first + BLOCK_FRAMES, stop)]
        return front_end.encode(np.ascontiguousarray(block))

    return prefetch(encode, range(0, stop, BLOCK_FRAMES))


def _rows(mixture: LogisticMixture, first: int) -> LogisticMixture:
    return LogisticMixture(
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

"""Forecasts of one passage by many models at once, and their measures."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from songcast.audio.songs import Song
from songcast.evaluation.summary import Measures, finite
from songcast.forecasting.baselines import Cascade
from songcast.forecasting.distribution import HIGHEST, LOWEST
from songcast.forecasting.forecaster import Forecast, Forecaster, forecast_together
from songcast.forecasting.front_end import FrontEndSettings
from songcast.forecasting.lstm import LstmForecaster
from songcast.forecasting.metrics import lag_samples


def forecast_passage(
    models: Mapping[str, Forecaster], song: Song, start: int, stop: int, first: int = 0
) -> dict[str, Forecast]:
    """Forecast the frames [start, stop) of ``song`` with each model.

    The models process the song from frame ``first``; one with ``warm_up_frames`` starts that
    many frames before the passage. Models with the same front end share it: its experts process
    the song once.
    """
    groups: dict[FrontEndSettings | str, list[str]] = {}
    for name, model in models.items():
        groups.setdefault(front_end_of(model, models.values()) or name, []).append(name)
    forecasts: dict[str, Forecast] = {}
    for shared, names in groups.items():
        group = [models[name] for name in names]
        warm_up = start if group[0].warm_up_frames is None else group[0].warm_up_frames
        results = forecast_together(
            [model.session(song.channels, song.sample_rate_hz) for model in group],
            song,
            start,
            stop,
            first=max(start - warm_up, first),
            encode=None if isinstance(shared, str) else shared.open(song.channels).encode,
        )
        forecasts |= dict(zip(names, results, strict=True))
    return {name: forecasts[name] for name in models}


def joined(parts: Sequence[Forecast]) -> Forecast:
    """Return the forecasts of several passages as one, to measure them together."""
    return Forecast(
        samples=np.concatenate([part.samples for part in parts]),
        mean=np.concatenate([part.mean for part in parts]),
        bits=np.concatenate([part.bits for part in parts]),
    )


def front_end_of(model: Forecaster, models: Iterable[Forecaster] = ()) -> FrontEndSettings | None:
    """Return the front end that ``model`` can share with others, None for a model without one.

    The cascade can share the wider bank of one of the ``models`` that begins with its experts.
    """
    if isinstance(model, LstmForecaster):
        return model.front_end if model.front_end.taps is None else None
    if not isinstance(model, Cascade):
        return None
    wider = (
        other.front_end
        for other in models
        if isinstance(other, LstmForecaster)
        and other.front_end.kind == "cascade"
        and other.front_end.filter_bank.starts_with(model.settings)
    )
    return next(wider, model.front_end)


def measure_forecast(forecast: Forecast) -> Measures:
    """Return the measures of one forecast: gain (dB) and lag per channel, bits, clipped samples.

    ``clipped_samples``: the number of predictions at the edge of the int16 range where the song is
    not at it.
    """
    edge = (forecast.mean <= LOWEST) | (forecast.mean >= HIGHEST)
    loud = (forecast.samples == LOWEST) | (forecast.samples == HIGHEST)
    return {
        "prediction_gain_db": [finite(g) for g in forecast.prediction_gain_db],
        "bits_per_sample": forecast.bits_per_sample,
        "lag_samples": lag_samples(forecast.samples, forecast.mean).tolist(),
        "clipped_samples": int(np.count_nonzero(edge & ~loud)),
    }

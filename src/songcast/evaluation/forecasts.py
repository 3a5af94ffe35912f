"""Forecasts of passages of a song by many models at once, and their measures."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from songcast.audio.songs import Song
from songcast.evaluation.summary import Measures, finite
from songcast.forecasting.baselines import Cascade
from songcast.forecasting.forecaster import Forecast, Forecaster, forecast_stream
from songcast.forecasting.front_end import FrontEndSettings
from songcast.forecasting.lstm import LstmForecaster
from songcast.forecasting.metrics import RunningMeasures


def measure_passages(
    models: Mapping[str, Forecaster],
    song: Song,
    spans: Sequence[tuple[int, int, int]],
    on_block: Callable[[str, int, Forecast], None] | None = None,
) -> dict[str, Measures]:
    """Forecast passages of ``song`` with each model; return the measures of all passages together.

    ``spans``: as ``forecast_passage`` takes them: ``first``, ``start`` and ``stop``. ``on_block``
    is called with what ``forecast_passage`` yields. Memory does not grow with the passages.
    """
    measures = {name: RunningMeasures(song.channels) for name in models}
    for first, start, stop in spans:
        for name, frame, block in forecast_passage(models, song, start, stop, first):
            measures[name].add(block.samples, block.mean, block.bits)
            if on_block:
                on_block(name, frame, block)
    return {name: _as_json(measured) for name, measured in measures.items()}


def forecast_passage(
    models: Mapping[str, Forecaster], song: Song, start: int, stop: int, first: int = 0
) -> Iterator[tuple[str, int, Forecast]]:
    """Forecast the frames [start, stop) of ``song`` with each model.

    Yields the name of a model and its next block with the frame of the song at which it begins. The
    models process the song from frame ``first``; one with ``warm_up_frames`` starts that
    many frames before the passage. Models with the same front end share it: its experts process
    the song once.
    """
    groups: dict[FrontEndSettings | str, list[str]] = {}
    for name, model in models.items():
        groups.setdefault(front_end_of(model, models.values()) or name, []).append(name)
    for shared, names in groups.items():
        group = [models[name] for name in names]
        warm_up = start if group[0].warm_up_frames is None else group[0].warm_up_frames
        at = max(start - warm_up, first)
        blocks = forecast_stream(
            [model.session(song.channels) for model in group],
            [song.samples[at:stop]],
            None if isinstance(shared, str) else shared.open(song.channels).encode,
        )
        for block, distributions in blocks:
            skip = max(start - at, 0)
            if skip < len(block):
                for name, distribution in zip(names, distributions, strict=True):
                    mean, bits = distribution.mean[skip:], distribution.bits(block)[skip:]
                    yield name, at + skip, Forecast(samples=block[skip:], mean=mean, bits=bits)
            at += len(block)


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
        and other.front_end.filter_bank.starts_with(model.front_end.filter_bank)
    )
    return next(wider, model.front_end)


def _as_json(measured: RunningMeasures) -> Measures:
    """Return the measures of a forecaster: gain (dB) and lag per channel, bits, clipped samples."""
    return {
        "prediction_gain_db": [finite(g) for g in measured.prediction_gain_db],
        "bits_per_sample": measured.bits_per_sample,
        "lag_samples": measured.lag_samples.tolist(),
        "clipped_samples": measured.clipped_samples,
    }

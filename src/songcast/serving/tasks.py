"""The three tasks of a served model: forecast, continue, score."""

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from songcast.audio.songs import Song
from songcast.errors import SongcastError
from songcast.forecasting.distribution import to_int16
from songcast.forecasting.forecaster import check_channels
from songcast.forecasting.metrics import RunningMeasures
from songcast.registry.mlflow_model import DEFAULTS
from songcast.registry.models import Model
from songcast.serving.payload import encode_song

MAX_TEMPERATURE = 10.0
MAX_SEED = 2**63 - 1
# Unknown keys and other types than the declared ones are errors.
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

Samples = NDArray[np.int16]
Check = Callable[[], None]


class TaskError(SongcastError):
    """A param of the request is invalid."""


class TaskParams(BaseModel):
    """The task and its params."""

    model_config = STRICT

    task: Literal["forecast", "continue", "score"] = DEFAULTS["task"]
    seconds: float = Field(
        default=DEFAULTS["seconds"], gt=0, le=3600, description="of continuation"
    )
    temperature: float = Field(default=DEFAULTS["temperature"], ge=0, le=MAX_TEMPERATURE)
    seed: int = Field(default=DEFAULTS["seed"], ge=0, le=MAX_SEED)
    format: Literal["wav", "flac", "mp3"] = DEFAULTS["format"]

    @classmethod
    def checked(cls, params: Mapping[str, Any]) -> Self:
        """Validate ``params`` and add the defaults. Raises ``TaskError`` that names the param."""
        try:
            return cls.model_validate(params)
        except ValidationError as error:
            raise TaskError(first_error(error.errors())) from None


def first_error(errors: Any) -> str:
    """Return the first of pydantic's ``errors`` as one line."""
    location = ".".join(str(part) for part in errors[0]["loc"])
    return f"{location}: {errors[0]['msg']}" if location else str(errors[0]["msg"])


def run_task(model: Model, song: Song, params: TaskParams, check: Check) -> dict[str, Any]:
    """Run the task and return one row of the response, made of JSON types.

    ``check`` is called for each block; an exception that it raises ends the task. Raises
    ``SongcastError`` if the song is invalid.
    """
    row: dict[str, Any] = {
        "audio": None,
        "format": None,
        "prediction_gain_db": None,
        "bits_per_sample": None,
        "sample_rate_hz": int(song.sample_rate_hz),
    }
    if params.task == "continue":
        samples = np.concatenate(list(continuation_blocks(model, song, params, check)))
    else:
        samples, gains, bits = forecast(model, song, check)
        row |= {"prediction_gain_db": gains, "bits_per_sample": bits}
    if params.task != "score":
        result = Song(samples=samples, sample_rate_hz=song.sample_rate_hz, name=song.name)
        row |= {"audio": encode_song(result, params.format), "format": params.format}
    return row


def continuation_blocks(
    model: Model, song: Song, params: TaskParams, check: Check
) -> Iterator[Samples]:
    """Yield the continuation block by block. Raises ``SongcastError``."""
    blocks = model.stream_song(
        song, seconds=params.seconds, temperature=params.temperature, seed=params.seed
    )
    for block in blocks:
        check()
        yield block


def forecast(model: Model, song: Song, check: Check) -> tuple[Samples, list[float], float]:
    """Return the samples of `songcast predict`, gain per channel in dB, bits per sample."""
    measures = RunningMeasures(song.channels)
    blocks = [predicted for _, predicted in forecast_blocks(model, song, measures, check)]
    return np.concatenate(blocks), finite_gains_db(measures), measures.bits_per_sample


def forecast_blocks(
    model: Model, song: Song, measures: RunningMeasures, check: Check
) -> Generator[tuple[Samples, Samples]]:
    """Yield blocks of the song and of its prediction; ``measures`` are those of all so far."""
    check_channels(song)
    with closing(model.stream([song.samples], song.channels, song.sample_rate_hz)) as blocks:
        for block, distribution in blocks:
            check()
            mean = distribution.mean
            measures.add(block, mean, distribution.bits(block))
            yield block, to_int16(mean)


def finite_gains_db(measures: RunningMeasures) -> list[float]:
    """Return prediction gains in [-200, 200] dB, because JSON has no infinity."""
    return [float(g) for g in np.clip(measures.prediction_gain_db, -200.0, 200.0)]

"""The three tasks of a served model: forecast, continue, score."""

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from songcast.audio.formats import check_channels
from songcast.audio.songs import Song, base64_of
from songcast.errors import SongcastError
from songcast.forecasting.metrics import RunningMeasures
from songcast.registry.mlflow_model import DEFAULTS
from songcast.registry.models import Model, predictions

MAX_TEMPERATURE = 10.0
MAX_SEED = 2**63 - 1

Samples = NDArray[np.int16]
Check = Callable[[], None]


class TaskError(SongcastError):
    """A param of the request is invalid."""


class Schema(BaseModel):
    """Base of requests and responses: other keys and types than the declared ones are errors."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        json_schema_serialization_defaults_required=True,
    )


class Prediction(Schema):
    """The result for one song. ``audio``: base64 of a file in ``format``."""

    audio: str | None = None
    format: str | None = None
    prediction_gain_db: list[float] | None = None
    bits_per_sample: float | None = None
    sample_rate_hz: int


class TaskParams(Schema):
    """The task and its params."""

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


def run_task(model: Model, song: Song, params: TaskParams, check: Check) -> Prediction:
    """Run the task; an exception of ``check``, which is called for each block, ends it.

    Raises ``SongcastError`` if the song is invalid.
    """
    row = Prediction(sample_rate_hz=int(song.sample_rate_hz))
    if params.task == "continue":
        samples = np.concatenate(list(continuation_blocks(model, song, params, check)))
    else:
        samples, row.prediction_gain_db, row.bits_per_sample = forecast(model, song, check)
    if params.task != "score":
        result = Song(samples=samples, sample_rate_hz=song.sample_rate_hz, name=song.name)
        row.audio, row.format = base64_of(result, params.format), params.format
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
    check_channels(song.name, song.channels)
    with closing(predictions(model, [song.samples], song, measures)) as blocks:
        for parts in blocks:
            check()
            yield parts


def finite_gains_db(measures: RunningMeasures) -> list[float]:
    """Return prediction gains in [-200, 200] dB, because JSON has no infinity."""
    return [float(g) for g in np.clip(measures.prediction_gain_db, -200.0, 200.0)]

"""Requests and responses as pydantic types; the payloads are those of MLflow's scoring server."""

import json
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from songcast.registry.mlflow_model import EXAMPLE
from songcast.serving.tasks import Prediction, Schema, TaskParams


class RawSong(Schema):
    """int16 samples as numbers: one per frame (mono), or a list of one or two per frame."""

    samples: list[int] | list[list[int]] = Field(min_length=1)
    sample_rate_hz: int = Field(ge=1, le=1_000_000)


# Base64 of an audio file, or raw samples as JSON text.
EncodedSong = Annotated[str, Field(examples=[EXAMPLE])] | RawSong


class SongRow(Schema):
    """One song, or a list of songs."""

    song: EncodedSong | list[EncodedSong]


class SplitFrame(Schema):
    """A table of songs, with column names and rows in separate lists."""

    columns: list[Literal["song"]] = Field(min_length=1, max_length=1)
    data: list[Annotated[list[EncodedSong], Field(min_length=1, max_length=1)]]
    index: list[Any] | None = None


class Invocation(Schema):
    """Songs in one of the four forms of MLflow's scoring server, and the task."""

    dataframe_split: SplitFrame | None = None
    dataframe_records: list[SongRow] | None = None
    inputs: SongRow | list[EncodedSong | SongRow] | str | None = None
    instances: SongRow | list[EncodedSong | SongRow] | str | None = None
    params: TaskParams = TaskParams()

    @model_validator(mode="after")
    def _check_one_form(self) -> Self:
        if len(self._forms()) != 1:
            raise ValueError(
                "send exactly one of dataframe_split, dataframe_records, inputs, instances"
            )
        return self

    def _forms(self) -> list[Any]:
        table = self.dataframe_split and [row[0] for row in self.dataframe_split.data]
        forms = (table, self.dataframe_records, self.inputs, self.instances)
        return [form for form in forms if form is not None]

    def songs(self) -> list[str]:
        """Return the songs as text; raw samples become JSON text."""
        (content,) = self._forms()
        rows = [row.song if isinstance(row, SongRow) else row for row in _listed(content)]
        songs = [song for row in rows for song in _listed(row)]
        return [s if isinstance(s, str) else json.dumps(s.model_dump()) for s in songs]


class InvocationResponse(Schema):
    """One prediction per song, in the order of the request."""

    predictions: list[Prediction]


class VersionResponse(Schema):
    """The model that is served."""

    songcast: str
    uri: str
    alias: str | None
    version: int | None
    commit: str | None
    weights_sha256: str | None


class LimitsResponse(Schema):
    """What a request may contain, and how long it takes.

    ``frames``: of a song. ``frames_per_second``: frames of stereo that are forecast in a second of
    CPU time, measured when the model was loaded; mono is faster, and requests at the same time are
    slower.
    """

    body_bytes: int
    frames: int
    continuation_seconds: float
    request_seconds: float
    frames_per_second: float


class ErrorResponse(Schema):
    """The reason of an error, in one line."""

    error_code: str
    message: str


def _listed(content: Any) -> list[Any]:
    return content if isinstance(content, list) else [content]

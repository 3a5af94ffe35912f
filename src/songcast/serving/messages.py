"""What goes over the wire: the payloads of MLflow's scoring server, as types."""

import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from songcast.serving.tasks import DEFAULTS, MAX_SEED, MAX_TEMPERATURE

EXAMPLE = "UklGRi4AAABXQVZFZm10IBAAAAABAAEAgD4AAAB9AAACABAAZGF0YQoAAAAAAOgD0AfoAwAA"


class Message(BaseModel):
    """Base of all messages: no unknown keys, no conversions."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class RawSong(Message):
    """Samples as numbers: one for each frame (mono), or a list of one or two for each frame."""

    samples: list[int] | list[list[int]] = Field(min_length=1)
    sample_rate_hz: int = Field(ge=1, le=1_000_000)


# Base64 of an audio file, or raw samples, also as JSON text.
SongCell = Annotated[str, Field(examples=[EXAMPLE])] | RawSong


class SongRow(Message):
    """One song."""

    song: SongCell


class SongColumn(Message):
    """Songs by column."""

    song: SongCell | list[SongCell]


class SplitFrame(Message):
    """A table: columns and rows apart."""

    columns: list[Literal["song"]] = Field(min_length=1, max_length=1)
    data: list[Annotated[list[SongCell], Field(min_length=1, max_length=1)]]
    index: list[Any] | None = None


class TaskParams(Message):
    """What to do with the songs."""

    task: Literal["forecast", "continue", "score"] = DEFAULTS["task"]
    seconds: float = Field(default=DEFAULTS["seconds"], gt=0, description="of continuation")
    temperature: float = Field(default=DEFAULTS["temperature"], ge=0, le=MAX_TEMPERATURE)
    seed: int = Field(default=DEFAULTS["seed"], ge=0, le=MAX_SEED)
    format: Literal["wav", "flac", "mp3"] = DEFAULTS["format"]


class Invocation(Message):
    """Songs in one of the four forms of MLflow's scoring server, and what to do with them."""

    dataframe_split: SplitFrame | None = None
    dataframe_records: list[SongRow] | None = None
    inputs: SongColumn | list[SongCell | SongRow] | str | None = None
    instances: SongColumn | list[SongCell | SongRow] | str | None = None
    params: TaskParams = TaskParams()

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        forms = (self.dataframe_split, self.dataframe_records, self.inputs, self.instances)
        if sum(form is not None for form in forms) != 1:
            raise ValueError(
                "exactly one of dataframe_split, dataframe_records, inputs, instances must be there"
            )
        return self

    def songs(self) -> list[str]:
        """Return the songs as text, raw ones as JSON."""
        if self.dataframe_split is not None:
            return [_text(row[0]) for row in self.dataframe_split.data]
        others = (self.dataframe_records, self.inputs, self.instances)
        said: Any = next(form for form in others if form is not None)
        if isinstance(said, SongColumn):
            said = said.song
        cells = said if isinstance(said, list) else [said]
        return [_text(cell.song if isinstance(cell, SongRow) else cell) for cell in cells]


class Row(Message):
    """The answer for one song. ``audio``: base64 of a file in ``format``."""

    audio: str | None
    format: str | None
    prediction_gain_db: list[float] | None
    bits_per_sample: float | None
    sample_rate_hz: int


class Answer(Message):
    """One row for each song, in their order."""

    predictions: list[Row]


class VersionAnswer(Message):
    """What is being served."""

    songcast: str
    uri: str
    alias: str | None
    version: int | None
    commit: str | None
    weights_sha256: str | None


class Failure(Message):
    """Why there is no answer, in one line; the keys are those of MLflow's scoring server."""

    error_code: str
    message: str


def _text(cell: str | RawSong) -> str:
    return cell if isinstance(cell, str) else json.dumps(cell.model_dump())

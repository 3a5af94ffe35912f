"""Read params.yaml into frozen, validated settings: one class per section.

A new section is a class below and a field of ``Params``. There are no defaults: params.yaml has
every value, so that DVC tracks every change.
"""

import os
import reprlib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from songcast.errors import ParamsError

Engine = Literal["local", "ray"]
# From forecasting.distribution, which is slow to import; a test compares them.
BLOCK_FRAMES = 4096

# Raised by PyYAML for the 31st of February, 5000 digits, a wrong tag, a thousand brackets.
_UNREADABLE = (ValueError, AttributeError, RecursionError)
# Parts of a location that are no keys of the file, see ``TrialValues``.
_MARKS = ("range", "list", "[key]")
# What is allowed, where the wording of pydantic is unclear.
_RULES = {
    "model_type": "a section of key: value lines",
    "tuple_type": "a list, such as [a, b]",
    "float_type": "a number (in YAML, write 1.0e-3 for 1e-3)",
    "too_short": "at least {min_length} in it",
    "too_long": "at most {max_length} in it",
    "string_too_short": "text of at least {min_length} character",
}


class Settings(BaseModel):
    """Base of all sections: immutable, no unknown keys, no conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, values: Any) -> Any:
        """Refuse unknown keys; the error of ``forbid`` would not name the allowed ones."""
        allowed = [field.alias or name for name, field in cls.model_fields.items()]
        for key in values if isinstance(values, dict) else ():
            if key not in allowed:
                raise ValueError(f"{key} is unknown, not one of {', '.join(allowed)}")
        return values


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that occurs twice; YAML would use the last one."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for key in {key for key in keys if keys.count(key) > 1}:
            raise yaml.MarkedYAMLError(problem=f"{key} occurs twice")
        return super().construct_mapping(node, deep)


def _tuples(value: Any) -> Any:
    """Return ``value`` with tuples for lists, as strict and immutable settings need."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _explain(error: ValidationError) -> str:
    """Return the first mistake in one line: section.key, the value received, what is allowed."""
    first = error.errors()[0]
    kind, place = first["type"], [str(part) for part in first["loc"] if part not in _MARKS]
    key = ".".join(place) or "the file"
    if kind == "missing":
        return f"{key} is missing; add it"
    if kind == "value_error":
        return f"{key}: {first['ctx']['error']}; correct it"
    if kind in _RULES:
        rule = _RULES[kind].format(**first.get("ctx", {}))
    else:
        rule = first["msg"].removeprefix("Input should be ")
    received = list(first["input"]) if isinstance(first["input"], tuple) else first["input"]
    return f"{key} is {reprlib.repr(received)}; allowed: {rule}"


HeadUnits = Annotated[int, Field(ge=1, le=4096)]
Seed = Annotated[int, Field(ge=0, lt=1 << 32)]  # the range that Keras accepts


class ExpectParams(Settings):
    """What the data report expects of a song; it warns about any other."""

    min_seconds: float = Field(ge=0, le=1e6)
    min_loudness_lufs: float = Field(ge=-70, le=0)
    min_low_pass_hz: float = Field(ge=0, le=192000)
    min_effective_bits: float = Field(ge=0, le=16)
    max_clipped_share: float = Field(ge=0, le=1)
    max_silent_share: float = Field(ge=0, le=1)
    max_dc_offset: float = Field(ge=0, le=1)
    max_one_sided_seconds: float = Field(ge=0, le=1e6)
    max_dropouts: int = Field(ge=0, le=1_000_000)


class PrepareParams(Settings):
    """How songs are resampled, and split in time."""

    sample_rate_hz: int = Field(ge=8000, le=192000)
    train_fraction: float = Field(gt=0, lt=1)
    validation_fraction: float = Field(ge=0, lt=1)
    test_fraction: float = Field(gt=0, lt=1)
    guard_seconds: float = Field(ge=0, le=60)
    held_out: tuple[str, ...]
    on_damage: Literal["warn", "fail"]
    on_leak: Literal["warn", "fail"]
    expect: ExpectParams

    @model_validator(mode="after")
    def _whole(self) -> Self:
        total = self.train_fraction + self.validation_fraction + self.test_fraction
        if abs(total - 1) > 1e-9:
            raise ValueError(f"train, validation and test fractions must sum to 1, not {total:g}")
        return self


class NotebookParams(Settings):
    """The model this project began with, which used look_back 3 and 20 epochs."""

    look_back: int = Field(ge=1, le=64)
    activation: Literal["relu", "leaky_relu"]
    epochs: int = Field(ge=1, le=1000)
    windows_per_epoch: int = Field(ge=100, le=100_000_000)


class BaselinesParams(Settings):
    """Forecasters to compare train with."""

    look_back: int = Field(ge=1, le=1024)
    alpha: float = Field(ge=0, le=1e9)
    notebook: NotebookParams
    seed: Seed


class ContinuationParams(Settings):
    """The level model of continuations; a step reads ``batch_size`` cuts."""

    holdout_seconds: float = Field(gt=0, le=600)
    cuts: int = Field(ge=1, le=1_000_000)
    epochs: int = Field(ge=1, le=100_000)
    steps_per_epoch: int = Field(ge=1, le=1_000_000)
    batch_size: int = Field(ge=1, le=4096)
    learning_rate: float = Field(gt=0, le=1)
    seed: Seed


class BudgetParams(Settings):
    """How much of a long song is processed, see ``data.corpus.Budget``."""

    seconds_per_song: float | None = Field(ge=1, le=1e6)
    warm_up_seconds: float = Field(ge=0, le=600)


class FitParams(BudgetParams):
    """How to fit a forecaster; a step reads ``batch_size`` crops of ``crop_frames``."""

    epochs: int = Field(ge=1, le=100_000)
    steps_per_epoch: int = Field(ge=1, le=1_000_000)
    batch_size: int = Field(ge=1, le=4096)
    crop_frames: int = Field(ge=64, le=1 << 20)
    learning_rate: float = Field(gt=0, le=1)
    seed: Seed


class TrainParams(FitParams):
    """The LSTM forecaster, trained from scratch."""

    front_end: Literal["cascade", "ridge", "none"]
    filter_bank: Literal["wide", "cascade"]
    look_back: int = Field(ge=1, le=1024)
    step_frames: int = Field(ge=1, le=4096)
    units: int = Field(ge=1, le=4096)
    layers: int = Field(ge=1, le=8)
    head_units: tuple[HeadUnits, ...] = Field(min_length=1)
    negative_slope: float = Field(ge=0, lt=1)
    exclude: tuple[str, ...]

    @model_validator(mode="after")
    def _frames(self) -> Self:
        if BLOCK_FRAMES % self.step_frames:
            raise ValueError(
                f"step_frames must divide {BLOCK_FRAMES}, and {self.step_frames} does not"
            )
        if self.crop_frames % self.step_frames:
            raise ValueError(f"crop_frames must be a multiple of step_frames {self.step_frames}")
        return self


class RetrainParams(FitParams):
    """Training of ``parent`` on new songs, with a replay of the old ones."""

    parent: str = Field(min_length=1)
    songs: tuple[str, ...]
    replay_share: float = Field(ge=0, lt=1)
    negative_slope: float = Field(ge=0, lt=1)


class EvaluateParams(BudgetParams):
    """What is measured of each song, and what is written for listening."""

    listening_seconds: float = Field(gt=0, le=600)


class RegisterParams(Settings):
    """``in_experiments``: whether `dvc exp run` registers models and moves aliases."""

    in_experiments: bool


class Range(Settings):
    """Numbers from ``low`` to ``high``, with uniformly distributed logarithms."""

    low: float = Field(gt=0, le=1 << 32)
    high: float = Field(gt=0, le=1 << 32)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} must be below high {self.high:g}")
        return self


def _form(values: Any) -> str | None:
    if isinstance(values, dict | Range):
        return "range"
    return "list" if isinstance(values, tuple) else None


TrialValues = Annotated[
    Annotated[Range, Tag("range")] | Annotated[tuple[Any, ...], Field(min_length=1), Tag("list")],
    Discriminator(
        _form,
        custom_error_type="trial_values",
        custom_error_message="a list, such as [64, 96], or a range: {low: 1.0e-3, high: 1.0e-2}",
    ),
]


class SweepParams(Settings):
    """What `songcast sweep` tries: ``space`` maps keys of train to a list or a range."""

    trials: int = Field(ge=1, le=10_000)
    grace_epochs: int = Field(ge=1, le=100_000)
    space: dict[str, TrialValues] = Field(min_length=1)
    seed: Seed


class Params(Settings):
    """All of params.yaml.

    ``engine``: where many songs are processed, on the cores of this machine or on a Ray cluster.
    ``workers``: processes of the cluster that share each step of train and retrain. ``cache_gb``:
    size of the feature cache, beside the features in use.
    """

    prepare: PrepareParams
    baselines: BaselinesParams
    continuation: ContinuationParams
    train: TrainParams
    retrain: RetrainParams
    evaluate: EvaluateParams
    # The metaclass of pydantic's models has an attribute `register`.
    registration: RegisterParams = Field(alias="register")
    sweep: SweepParams
    engine: Engine
    workers: int = Field(ge=1, le=4096)
    cache_gb: float = Field(ge=0, le=1e6)

    @field_validator("workers")
    @classmethod
    def _shared(cls, workers: int, info: ValidationInfo) -> int:
        if workers > 1 and info.data.get("engine") == "local":
            raise ValueError(f"{workers} workers need engine: ray")
        for name in ("train", "retrain"):
            if name in info.data and info.data[name].batch_size % workers:
                raise ValueError(
                    f"{workers} does not divide {name}.batch_size {info.data[name].batch_size}"
                )
        return workers

    @classmethod
    def load(cls, path: str | os.PathLike[str] = "params.yaml") -> Self:
        """Read the file. Raises ``ParamsError``, in one line, with the key and the value."""
        name = Path(path).name
        try:
            document = _tuples(yaml.load(Path(path).read_text(encoding="utf-8"), _UniqueKeys))
        except OSError as error:
            raise ParamsError(
                f"{path}: cannot be read ({error.strerror}); run in the repository"
            ) from error
        except (yaml.YAMLError, *_UNREADABLE) as error:
            line = " ".join(str(error).split())
            raise ParamsError(f"{name}: not valid YAML ({line}); correct it") from error
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            raise ParamsError(f"{name}: {_explain(error)}") from error

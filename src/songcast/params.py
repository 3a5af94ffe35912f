"""params.yaml -> frozen, typed, validated settings: one class per section, one section per stage.

A new section is a class below and a field of ``Params``. There are no defaults here:
params.yaml holds every value, so that DVC sees every change.
"""

import os
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator, model_validator

from songcast.augment import VARIANTS
from songcast.engine import Engine
from songcast.forecasters.mixture import BLOCK_FRAMES
from songcast.settings import Settings, load

HeadUnits = Annotated[int, Field(ge=1, le=4096)]
Seed = Annotated[int, Field(ge=0, lt=1 << 32)]  # what Keras takes


class PrepareParams(Settings):
    """How songs are prepared and split in time."""

    sample_rate_hz: int = Field(ge=8000, le=192000)
    train_fraction: float = Field(gt=0, lt=1)
    validation_fraction: float = Field(ge=0, lt=1)
    test_fraction: float = Field(gt=0, lt=1)
    guard_seconds: float = Field(ge=0, le=60)
    held_out: tuple[str, ...]

    @model_validator(mode="after")
    def _whole(self) -> Self:
        total = self.train_fraction + self.validation_fraction + self.test_fraction
        if abs(total - 1) > 1e-9:
            raise ValueError(f"train, validation and test fractions must sum to 1, not {total:g}")
        return self


class NotebookParams(Settings):
    """The ancestor's recipe; its own values are look_back 3 and 20 epochs."""

    look_back: int = Field(ge=1, le=64)
    activation: Literal["relu", "leaky_relu"]
    epochs: int = Field(ge=1, le=1000)
    windows_per_epoch: int = Field(ge=100, le=100_000_000)


class BaselinesParams(Settings):
    """Forecasters that train must beat."""

    look_back: int = Field(ge=1, le=1024)
    alpha: float = Field(ge=0, le=1e9)
    notebook: NotebookParams
    seed: Seed


class ContinuationParams(Settings):
    """The network that continues songs; one step hears ``rows`` crops of ``crop_steps``."""

    look_back: int = Field(ge=2, le=256)
    slow_units: int = Field(ge=1, le=4096)
    fast_units: int = Field(ge=1, le=4096)
    head_units: tuple[HeadUnits, HeadUnits]
    negative_slope: float = Field(ge=0, lt=1)
    copy_share: float = Field(ge=0, le=1)
    unheard_seconds: float = Field(gt=0, le=600)
    views: int = Field(ge=1, le=1_000_000)
    epochs: int = Field(ge=1, le=100_000)
    steps_per_epoch: int = Field(ge=1, le=1_000_000)
    rows: int = Field(ge=1, le=4096)
    crop_steps: int = Field(ge=1, le=4096)
    learning_rate: float = Field(gt=0, le=1)
    seed: Seed


class FitParams(Settings):
    """How long and how fast to learn; one step hears ``rows`` crops of ``crop_frames``."""

    epochs: int = Field(ge=1, le=100_000)
    steps_per_epoch: int = Field(ge=1, le=1_000_000)
    rows: int = Field(ge=1, le=4096)
    crop_frames: int = Field(ge=64, le=1 << 20)
    learning_rate: float = Field(gt=0, le=1)
    variants: int = Field(ge=0, le=len(VARIANTS))
    variant_seconds: float = Field(gt=0, le=600)
    seed: Seed


class TrainParams(FitParams):
    """The multi-song network, from scratch."""

    front_end: Literal["cascade", "ridge", "none"]
    experts: Literal["wide", "cascade"]
    look_back: int = Field(ge=1, le=1024)
    frame: int = Field(ge=1, le=4096)
    units: int = Field(ge=1, le=4096)
    layers: int = Field(ge=1, le=8)
    head_units: tuple[HeadUnits, ...] = Field(min_length=1)
    activation: Literal["leaky_relu", "relu", "gelu", "tanh"]
    negative_slope: float = Field(ge=0, lt=1)
    without: tuple[str, ...]

    @model_validator(mode="after")
    def _frames(self) -> Self:
        if BLOCK_FRAMES % self.frame:
            raise ValueError(f"frame must divide {BLOCK_FRAMES}, and {self.frame} does not")
        if self.crop_frames % self.frame:
            raise ValueError(f"crop_frames must be a multiple of frame {self.frame}")
        return self


class RetrainParams(FitParams):
    """A warm start: from ``parent``, on new songs, with a replay of the old ones."""

    parent: str = Field(min_length=1)
    songs: tuple[str, ...]
    replay_share: float = Field(ge=0, lt=1)
    negative_slope: float = Field(ge=0, lt=1)


class EvaluateParams(Settings):
    """What is written for listening."""

    listening_seconds: float = Field(gt=0, le=600)


class Range(Settings):
    """Numbers from ``low`` to ``high``, their logarithm evenly spread."""

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
    """What `songcast sweep` tries: ``space`` names keys of train, each a list or a range."""

    trials: int = Field(ge=1, le=10_000)
    grace_epochs: int = Field(ge=1, le=100_000)
    space: dict[str, TrialValues] = Field(min_length=1)
    seed: Seed


class Params(Settings):
    """All of params.yaml.

    ``engine``: who works on many songs, this machine's cores or a Ray cluster, of which
    ``workers`` processes share each step of train and retrain.
    """

    prepare: PrepareParams
    baselines: BaselinesParams
    continuation: ContinuationParams
    train: TrainParams
    retrain: RetrainParams
    evaluate: EvaluateParams
    sweep: SweepParams
    engine: Engine
    workers: int = Field(ge=1, le=4096)

    @field_validator("workers")
    @classmethod
    def _shared(cls, workers: int, info: ValidationInfo) -> int:
        if workers > 1 and info.data.get("engine") == "local":
            raise ValueError(f"{workers} take engine: ray")
        for name in ("train", "retrain"):
            if name in info.data and info.data[name].rows % workers:
                raise ValueError(
                    f"{workers} cannot share the {info.data[name].rows} rows of {name}"
                )
        return workers

    @classmethod
    def load(cls, path: str | os.PathLike[str] = "params.yaml") -> Self:
        """Read and check the file; raises ``ParamsError`` naming section, key and value."""
        return load(cls, path)

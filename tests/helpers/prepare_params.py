"""A valid ``prepare`` section."""

from pathlib import Path
from typing import Any

import yaml

from songcast.config import ExpectParams, PrepareParams

SECTION = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())["prepare"]
EXPECT = ExpectParams(**SECTION["expect"] | {"min_seconds": 0.0})


def prepare_params(**changes: Any) -> PrepareParams:
    """Return the values of params.yaml with ``changes``; they suit short songs."""
    settings = {
        "sample_rate_hz": 44100,
        "train_fraction": 0.7,
        "validation_fraction": 0.1,
        "test_fraction": 0.2,
        "guard_seconds": 0.01,
        "held_out": (),
        "on_damage": "warn",
        "on_leak": "warn",
        "expect": EXPECT,
    }
    return PrepareParams(**{**settings, **changes})

"""A valid ``prepare`` section."""

from typing import Any

from songcast.config import PrepareParams


def prepare_params(**changes: Any) -> PrepareParams:
    """Return the values of params.yaml with ``changes``; the guard is short for short songs."""
    settings = {
        "sample_rate_hz": 44100,
        "train_fraction": 0.7,
        "validation_fraction": 0.1,
        "test_fraction": 0.2,
        "guard_seconds": 0.01,
        "held_out": (),
        "on_damage": "warn",
    }
    return PrepareParams(**{**settings, **changes})

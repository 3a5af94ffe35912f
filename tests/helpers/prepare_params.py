"""A valid ``prepare`` section, for tests. Not a test module."""

from typing import Any

from songcast.config import PrepareParams


def prepare_params(**changes: Any) -> PrepareParams:
    """Those of params.yaml but for ``changes``; the guard is short, as test songs are."""
    settings = {
        "sample_rate_hz": 44100,
        "train_fraction": 0.7,
        "validation_fraction": 0.1,
        "test_fraction": 0.2,
        "guard_seconds": 0.01,
        "held_out": (),
    }
    return PrepareParams(**{**settings, **changes})

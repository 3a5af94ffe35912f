"""A small continuation model with random weights."""

import numpy as np

from songcast.continuation.level_model import FEATURES, SOURCES
from songcast.continuation.model import ContinuationModel
from songcast.continuation.settings import LevelSettings

SETTINGS = LevelSettings(units=4, head_units=5, passages=3)


def level_arrays(seed=0, spread=0.02, settings=SETTINGS):
    """Return random arrays of a level network."""
    rng = np.random.default_rng(seed)
    units, head = settings.units, settings.head_units
    shapes = {
        "lstm_kernel": (FEATURES, 4 * units),
        "lstm_recurrent": (units, 4 * units),
        "lstm_bias": (4 * units,),
        "head_kernel": (units + FEATURES, head),
        "head_bias": (head,),
        "out_kernel": (head, SOURCES + 1),
        "out_bias": (SOURCES + 1,),
    }
    return {n: rng.normal(0, spread, s).astype(np.float32) for n, s in shapes.items()}


def continuation_model(seed=0, spread=0.02):
    """Return a model in which every weight of the network is random."""
    return ContinuationModel(level_arrays(seed, spread), SETTINGS)

"""A small continuation model with random weights."""

import numpy as np

from songcast.continuation.level_model import FEATURES, SOURCES, pretrained
from songcast.continuation.model import ContinuationModel

UNITS, PASSAGES = 4, 3


def level_arrays(seed=0, spread=0.02):
    """Return the pretrained blend and random arrays of a level network."""
    rng = np.random.default_rng(seed)
    shapes = {
        "lstm_kernel": (FEATURES, 4 * UNITS),
        "lstm_recurrent": (UNITS, 4 * UNITS),
        "lstm_bias": (4 * UNITS,),
        "head_kernel": (UNITS + FEATURES, UNITS),
        "head_bias": (UNITS,),
        "out_kernel": (UNITS, SOURCES + 1),
        "out_bias": (SOURCES + 1,),
    }
    arrays = {n: rng.normal(0, spread, s).astype(np.float32) for n, s in shapes.items()}
    return {"blend": pretrained()["blend"], **arrays}


def continuation_model(seed=0, spread=0.02):
    """Return a model in which every weight of the network is random."""
    return ContinuationModel(level_arrays(seed, spread), PASSAGES)

"""A small continuation network with random weights."""

import numpy as np

from songcast.continuation.model import ContinuationModel
from songcast.continuation.network import build_network
from songcast.continuation.settings import NetworkSettings

SETTINGS = NetworkSettings(look_back=8, slow_units=5, fast_units=4, head_units=(6, 4), mixtures=2)


def continuation_model(seed=0, spread=0.1, copy_share=0.5):
    """Return a model in which every weight is random, also those of the last layer."""
    network = build_network(SETTINGS)
    rng = np.random.default_rng(seed)
    weights = [w + rng.normal(0, spread, w.shape) for w in network.get_weights()]
    network.set_weights(weights)
    return ContinuationModel(network, SETTINGS, copy_share)

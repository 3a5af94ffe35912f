"""What the continuation network is fitted to: the code length of true excitations."""

from typing import Any

import numpy as np

from songcast.continuation.network import code_length_bits
from songcast.training.continuation_examples import Sampler
from songcast.training.fit import Objective

WARMUP_SHARE, AVERAGE_MOMENTUM = 0.1, 0.98
# Batches of the validation after each epoch.
VALIDATION_BATCHES = 6
# The modules that train the model: a checkpoint depends on their code.
CODE = ("songcast.training.continuation", "songcast.training.fit")


def continuation_objective(learn: Sampler, check: Sampler) -> Objective:
    """Return batches from ``learn``, and a validation on batches from ``check`` without drift.

    Bits per sample are the differential code length of an excitation sample; white Gaussian
    noise at unit level would have 2.05.
    """
    batches = [check.batch(0, i, noisy=False) for i in range(VALIDATION_BATCHES)]

    def validate(trainer: Any) -> list[float]:
        return [float(np.mean([trainer.test_on_batch(*batch) for batch in batches]))]

    return Objective(loss=code_length_bits, batch=learn.batch, validate=validate)

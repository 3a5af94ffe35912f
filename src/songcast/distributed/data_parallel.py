"""Data-parallel training: each worker computes the gradients of its rows of a batch.

The gradients are averaged over the workers before each step, so all keep the same weights. The
result is that of one worker with the whole batch, except for the order of rounding.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Collective operations of a group match by these numbers; TensorFlow's own count from 1.
GROUP_KEY, GRADIENTS_KEY, MEASURES_KEY = 7001, 7101, 7102


class WorkerGroup:
    """The workers that share a training; this base class is a single worker."""

    rank, workers = 0, 1

    def optimizer(self, adam: type[Any]) -> type[Any]:
        """Return ``adam``, or a subclass that averages the gradients over the workers first."""
        return adam

    def mean(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the mean over workers of a float64 array; every worker must call it."""
        return values


class TensorflowWorkerGroup(WorkerGroup):
    """The processes that ``TF_CONFIG`` names. Create it before TensorFlow computes anything."""

    def __init__(self, rank: int, workers: int) -> None:
        import tensorflow as tf

        self.rank, self.workers = rank, workers
        # Ray sets the number of cores of this process; TensorFlow would use all of the machine.
        tf.config.threading.set_intra_op_parallelism_threads(int(os.environ["OMP_NUM_THREADS"]))
        # Connects the processes. Keras 3 does not support its variables and `fit`.
        self._strategy = tf.distribute.MultiWorkerMirroredStrategy()

    def optimizer(self, adam: type[Any]) -> type[Any]:
        """Return ``adam`` with its gradients averaged over the workers, before they are clipped."""
        averaged = self._averaged

        class Shared(adam):
            def apply(self, grads: Any, trainable_variables: Any = None) -> None:
                super().apply(averaged(grads), trainable_variables)

        return Shared

    def mean(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the mean over workers of a float64 array; every worker must call it."""
        return np.asarray(self._mean(values, MEASURES_KEY))

    def _averaged(self, gradients: Sequence[Any]) -> list[Any]:
        """Return the mean gradients, sent as one message."""
        import tensorflow as tf

        whole = self._mean(tf.concat([tf.reshape(g, [-1]) for g in gradients], 0), GRADIENTS_KEY)
        parts = tf.split(whole, [int(np.prod(g.shape)) for g in gradients])
        return [tf.reshape(part, g.shape) for part, g in zip(parts, gradients, strict=True)]

    def _mean(self, values: Any, key: int) -> Any:
        import tensorflow as tf

        total = tf.raw_ops.CollectiveReduceV2(
            input=values,
            group_size=self.workers,
            group_key=GROUP_KEY,
            instance_key=key,
            ordering_token=[],
            merge_op="Add",
            final_op="Id",
        )
        return total / self.workers

"""Who shares a training: every worker learns from its rows of each batch, all take one step.

The workers' gradients are averaged before each step, so that all keep the same weights and learn
what one worker would from the whole batch (but for the order in which rounding sums).
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Collective operations of one group match by these numbers: any will do that are not shared with
# TensorFlow's own, which count from 1.
GROUP_KEY, GRADIENTS_KEY, MEASURES_KEY = 7001, 7101, 7102


class Team:
    """One worker alone: every batch is its own, and a mean over workers is what it has."""

    rank, workers = 0, 1

    def optimizer(self, adam: type[Any]) -> type[Any]:
        """Return ``adam``, or one that averages the gradients over the workers first."""
        return adam

    def mean(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the mean over workers of a float64 array; each must ask for it."""
        return values


class TensorflowTeam(Team):
    """This process among those that ``TF_CONFIG`` names. Make it before anything computes."""

    def __init__(self, rank: int, workers: int) -> None:
        import tensorflow as tf

        self.rank, self.workers = rank, workers
        # Ray says how many cores are this process's; TensorFlow would take all of the machine.
        tf.config.threading.set_intra_op_parallelism_threads(int(os.environ["OMP_NUM_THREADS"]))
        # Connects the processes. Its variables and `fit` are of no use: Keras 3 fails in them.
        self._strategy = tf.distribute.MultiWorkerMirroredStrategy()

    def optimizer(self, adam: type[Any]) -> type[Any]:
        """Return ``adam`` with its gradients averaged over the workers, before they are clipped."""
        averaged = self._averaged

        class Shared(adam):
            def apply(self, grads: Any, trainable_variables: Any = None) -> None:
                super().apply(averaged(grads), trainable_variables)

        return Shared

    def mean(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the mean over workers of a float64 array; each must ask for it."""
        return np.asarray(self._mean(values, MEASURES_KEY))

    def _averaged(self, gradients: Sequence[Any]) -> list[Any]:
        """Return the mean gradients: one message for all, not one each."""
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

"""The last stage: what the network's own recent errors still say about the next sample.

A frozen network leaves its errors slightly coloured, in each song otherwise. Least squares over
the errors of both channels and a long NLMS filter learn that as the song goes on, and move the
mixture. They hear errors in units of the mixture's width, so loud passages do not rule. Codecs
call such a stage the bias stage.
"""

import numpy as np
from numpy.typing import NDArray

from songcast.forecasting.distribution import LogisticMixture
from songcast.forecasting.filter_bank import Chain, LeastSquares, Lms, StageFilters

CHAIN: Chain = (
    LeastSquares(own_taps=32, other_taps=32, forgetting=0.9998, ridge=300.0, solve_every=64),
    Lms(taps=2048, step=0.01),
)
# Errors and moves, in widths: rare big errors teach little about the small ones.
MAX_ERROR, MAX_MOVE = 3.0, 1.0
MIN_WIDTH_LSB = 0.05


class BiasStage:
    """Moves the mixtures of one song; causal, and the same however the song is cut."""

    def __init__(self, channels: int) -> None:
        self._filters = [StageFilters(stage, channels) for stage in CHAIN]

    def correct(self, mixture: LogisticMixture, samples: NDArray[np.int16]) -> LogisticMixture:
        """Return ``mixture`` moved by what is expected of its error, then learn from the error."""
        width = np.einsum("tcm,tcm->tc", mixture.weights, mixture.scales) + MIN_WIDTH_LSB
        error = np.clip((samples - mixture.mean) / width, -MAX_ERROR, MAX_ERROR)
        left = np.ascontiguousarray(error.T, np.float32)
        expected = np.zeros_like(left)
        for filters in self._filters:
            predicted = filters.predict(left)
            left = left - predicted
            expected += predicted
        move = width * np.clip(expected.T, -MAX_MOVE, MAX_MOVE)
        return LogisticMixture(
            weights=mixture.weights,
            locations=mixture.locations + move[..., None],
            scales=mixture.scales,
        )

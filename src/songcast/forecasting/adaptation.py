"""Two adaptive stages behind a frozen network: the bias stage and model averaging.

Both are causal, and their results do not depend on the size of the blocks, bit for bit.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from songcast.forecasting.distribution import LogisticMixture
from songcast.forecasting.filter_bank import StageFilters
from songcast.forecasting.filter_bank_settings import Chain, LeastSquares, Lms

BIAS_CHAIN: Chain = (
    LeastSquares(own_taps=32, other_taps=32, forgetting=0.9998, ridge=300.0, solve_every=64),
    Lms(taps=2048, step=0.01),
)
# Limits of errors and shifts, in widths: the filters should not fit the rare large errors.
MAX_ERROR, MAX_SHIFT = 3.0, 1.0
MIN_WIDTH_LSB = 0.05


class BiasStage:
    """Predicts the remaining error of a network and shifts its mixture accordingly.

    The errors of a frozen network are correlated in time, in each song in another way. Least
    squares over the errors of both channels and a long NLMS filter learn this correlation during
    the song. Errors are in units of the mixture's width, so loud passages do not dominate. Lossless
    audio codecs call such a stage the bias stage.
    """

    def __init__(self, channels: int) -> None:
        self._filters = [StageFilters(stage, channels) for stage in BIAS_CHAIN]

    def correct(self, mixture: LogisticMixture, samples: NDArray[np.int16]) -> LogisticMixture:
        """Return ``mixture`` shifted by its predicted error, then adapt to ``samples``.

        ``samples``: (frames, channels) int16.
        """
        width = np.einsum("tcm,tcm->tc", mixture.weights, mixture.scales) + MIN_WIDTH_LSB
        error = np.clip((samples - mixture.mean) / width, -MAX_ERROR, MAX_ERROR)
        residual = np.ascontiguousarray(error.T, np.float32)
        expected = np.zeros_like(residual)
        for filters in self._filters:
            predicted = filters.predict(residual)
            residual = residual - predicted
            expected += predicted
        shift = width * np.clip(expected.T, -MAX_SHIFT, MAX_SHIFT)
        return LogisticMixture(
            weights=mixture.weights,
            locations=mixture.locations + shift[..., None],
            scales=mixture.scales,
        )


class ModelAveraging:
    """Bayesian average of the network's mixture and others, weighted by recent code length.

    The log odds are leaky sums of the differences in bits: a frozen network that fails on an
    unusual song costs a few bits once, not in every sample.
    """

    FORGETTING = 0.998
    FIRST_LOG2_ODDS = 2.0

    def __init__(self, channels: int) -> None:
        # (1, channels, 1): the log odds of every other mixture against the network
        self._state = np.full((1, channels, 1), -self.FIRST_LOG2_ODDS)

    def average(
        self,
        network: LogisticMixture,
        others: Sequence[LogisticMixture],
        samples: NDArray[np.int16],
    ) -> LogisticMixture:
        """Return one mixture of all components, then adapt the odds to ``samples``.

        ``samples``: (frames, channels) int16.
        """
        lead = network.bits(samples)[..., None] - np.stack([m.bits(samples) for m in others], -1)
        odds = np.broadcast_to(self._state, (1, *lead.shape[1:]))
        if len(lead):
            # odds[t + 1] = FORGETTING * odds[t] + lead[t], the odds before each sample
            start = self.FORGETTING * odds
            summed, _ = lfilter([1.0], [1.0, -self.FORGETTING], lead, axis=0, zi=start)
            odds, self._state = np.concatenate([odds, summed[:-1]]), summed[-1:]
        # The network's own log odds are 0.
        odds = np.pad(odds[: len(lead)], ((0, 0), (0, 0), (1, 0)))
        shares = np.exp2(odds - odds.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        mixtures = [network, *others]
        weights = [shares[..., k, None] * m.weights for k, m in enumerate(mixtures)]
        return LogisticMixture(
            weights=np.concatenate(weights, axis=-1),
            locations=np.concatenate([m.locations for m in mixtures], axis=-1),
            scales=np.concatenate([m.scales for m in mixtures], axis=-1),
        )

"""Which distribution to trust: a causal average of several, by how well each has lately coded."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from songcast.forecasting.distribution import LogisticMixture
from songcast.forecasting.filter_bank import FilterBankSettings
from songcast.forecasting.front_end import FrontEndSettings


class ModelAveraging:
    """Bayesian average of the network's mixture and its rivals', by recent code length.

    The log odds are leaky sums of the differences in bits: a frozen network that fails on an
    unusual song costs at most a few bits once, not every sample.
    """

    MEMORY = 0.998
    FIRST_LOG2_ODDS = 2.0

    def __init__(self, channels: int) -> None:
        # (1, channels, 1): the log odds of every rival against the network
        self._state = np.full((1, channels, 1), -self.FIRST_LOG2_ODDS)

    def average(
        self,
        network: LogisticMixture,
        rivals: Sequence[LogisticMixture],
        samples: NDArray[np.int16],
    ) -> LogisticMixture:
        """Return all as one mixture, then learn from ``samples`` which was better."""
        lead = network.bits(samples)[..., None] - np.stack([m.bits(samples) for m in rivals], -1)
        odds = np.broadcast_to(self._state, (1, *lead.shape[1:]))
        if len(lead):
            # odds[t + 1] = MEMORY * odds[t] + lead[t], the odds before each sample
            summed, _ = lfilter([1.0], [1.0, -self.MEMORY], lead, axis=0, zi=self.MEMORY * odds)
            odds, self._state = np.concatenate([odds, summed[:-1]]), summed[-1:]
        # The network's own log odds are 0.
        odds = np.pad(odds[: len(lead)], ((0, 0), (0, 0), (1, 0)))
        shares = np.exp2(odds - odds.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        mixtures = [network, *rivals]
        weights = [shares[..., k, None] * m.weights for k, m in enumerate(mixtures)]
        return LogisticMixture(
            weights=np.concatenate(weights, axis=-1),
            locations=np.concatenate([m.locations for m in mixtures], axis=-1),
            scales=np.concatenate([m.scales for m in mixtures], axis=-1),
        )


def cascade_experts(front_end: FrontEndSettings) -> int:
    """How many of the bank's experts, the first ones, are the cascade's; 0 unless it has more."""
    cascade, chains = FilterBankSettings(), front_end.filter_bank.chains
    wider = len(chains) > len(cascade.chains) and chains[: len(cascade.chains)] == cascade.chains
    return len(cascade.names) if wider and front_end.kind == "cascade" else 0

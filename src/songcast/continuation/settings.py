"""The shape of the continuation network: known without Keras."""

from dataclasses import dataclass

from songcast.continuation.features import AHEAD

# Logistics are no narrower and no wider, in units of the level of an excitation.
MIN_LOG_SCALE, MAX_LOG_SCALE = -7.0, 4.0


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """Shape of the network; ``look_back`` past samples are seen by the head."""

    look_back: int = 16
    slow_units: int = 32
    fast_units: int = 24
    head_units: tuple[int, int] = (24, 16)
    mixtures: int = 3
    negative_slope: float = 0.1

    @property
    def sight(self) -> int:
        """How many numbers the head sees: own past, and the passage from there to just ahead."""
        return self.look_back + 2 * AHEAD

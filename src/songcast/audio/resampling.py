"""Change of sample rate, in a stream."""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray


def resampled(
    blocks: Iterable[NDArray[np.int16]], from_hz: int, to_hz: int, channels: int
) -> Iterator[NDArray[np.int16]]:
    """Resample int16 blocks (frames, channels) of any lengths from ``from_hz`` to ``to_hz``.

    Band-limited and anti-aliased (soxr's very high quality, linear phase, no delay), computed
    in float64, then rounded and clipped to int16 without dither: the result depends on neither
    the lengths of the blocks nor the machine's random state. Equal rates pass bit for bit.
    A song of n frames becomes round(n to_hz / from_hz) frames.
    """
    if from_hz == to_hz:
        yield from blocks
        return
    import soxr

    stream = soxr.ResampleStream(from_hz, to_hz, channels, dtype="float64", quality="VHQ")
    for block in blocks:
        yield _int16(stream.resample_chunk(np.ascontiguousarray(block, dtype=np.float64)))
    yield _int16(stream.resample_chunk(np.zeros((0, channels)), last=True))


def _int16(x: NDArray[np.float64]) -> NDArray[np.int16]:
    """Round ``x`` in place and return it as int16."""
    return np.clip(np.rint(x, out=x), -32768, 32767, out=x).astype(np.int16)

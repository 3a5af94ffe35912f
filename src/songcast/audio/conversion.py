"""Sample types, channel counts and sample rates: everything becomes int16 (frames, channels)."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.int16]
LOWEST, HIGHEST = -32768, 32767


def to_int16(block: NDArray[Any]) -> Samples:
    """Convert decoded samples to int16: round to the nearest level, clip, no dither.

    Takes uint8, int16, int32 (left-justified, as 20 to 32-bit samples come) and float in
    [-1, 1]. int16 passes unchanged; uint8 becomes (x - 128) 256; integers round halves up, floats
    are multiplied by 32768 and round halves to even.

    >>> to_int16(np.array([0.5, 1.5, -1.0]))
    array([ 16384,  32767, -32768], dtype=int16)
    >>> to_int16(np.array([2**31 - 1, 1 << 15, (1 << 15) - 1], np.int32))
    array([32767,     1,     0], dtype=int16)
    """
    if block.dtype == np.int16:
        unchanged: Samples = block
        return unchanged
    if block.dtype == np.uint8:
        return (block.astype(np.int16) - 128) * 256
    if block.dtype == np.int32:
        levels: NDArray[np.int32] = ((block >> 15) + 1) >> 1
        return np.minimum(levels, HIGHEST).astype(np.int16)
    return _rounded(block * float(-LOWEST))


def remixed(block: Samples, channels: int) -> Samples:
    """Return the block with one or two ``channels``.

    As FFmpeg does for int16: stereo to mono is the mean, mono to stereo has 1/sqrt(2) of the
    level in each channel.
    """
    if block.shape[1] == channels:
        return block
    if channels == 1:
        return _rounded(block.mean(axis=1, keepdims=True))
    return _rounded(np.repeat(block * 0.5**0.5, 2, axis=1))


def resampled(
    blocks: Iterable[Samples], from_hz: int, to_hz: int, channels: int
) -> Iterator[Samples]:
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
        yield _rounded(stream.resample_chunk(np.ascontiguousarray(block, dtype=np.float64)))
    yield _rounded(stream.resample_chunk(np.zeros((0, channels)), last=True))


def _rounded(x: NDArray[Any]) -> Samples:
    """Round ``x`` in place and return it as int16."""
    return np.clip(np.rint(x, out=x), LOWEST, HIGHEST, out=x).astype(np.int16)

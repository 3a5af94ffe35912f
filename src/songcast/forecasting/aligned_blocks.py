"""Networks see songs in blocks of one fixed shape, aligned to the song's first frame.

Matrix kernels may round differently for other shapes or row positions. A sample that always
sits in the same row of the same shape gets the same bits, however the song is cut.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from songcast.forecasting.distribution import BLOCK_FRAMES

Rows = NDArray[np.float32]


class AlignedBlocks:
    """Feeds rows to ``evaluate`` in zero-padded blocks of ``BLOCK_FRAMES`` rows.

    ``evaluate`` maps (BLOCK_FRAMES, ...) to outputs with as many rows; a row of output may
    depend on rows up to its own only.
    """

    def __init__(
        self,
        row_shape: tuple[int, ...],
        evaluate: Callable[[Rows], Rows],
    ) -> None:
        self._buffer = np.zeros((BLOCK_FRAMES, *row_shape), np.float32)
        self._filled = 0
        self._evaluate = evaluate

    def evaluate(self, rows: Rows) -> Rows:
        """Return the outputs of ``rows`` (frames, ...), in order."""
        return np.concatenate(list(self._outputs(rows)))

    def _outputs(self, rows: Rows) -> Iterator[Rows]:
        start = 0
        while True:
            count = min(len(rows) - start, BLOCK_FRAMES - self._filled)
            stop = self._filled + count
            self._buffer[self._filled : stop] = rows[start : start + count]
            yield self._evaluate(self._buffer)[self._filled : stop]
            start, self._filled = start + count, stop
            if self._filled == BLOCK_FRAMES:
                self._buffer[:] = 0.0
                self._filled = 0
            if start >= len(rows):
                return

"""Batches for training: random crops of the songs' features, reproducible by their number."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from songcast.corpus import TRAIN
from songcast.errors import CorpusError
from songcast.featurestore import SongFeatures

Rows = NDArray[np.float32]
# Inputs of the network by name, and the target.
Batch = tuple[dict[str, Rows], Rows]


def network_inputs(
    song: SongFeatures, channel: int, start: int, frames: int, look_back: int
) -> Batch:
    """Inputs of the network for [start, start + frames) of one channel, and the target.

    ``start`` and ``frames`` are multiples of the song's ``frame``. Before the song's first
    frame stands silence (zeros). The target is (frames, 2): residual and LSB, in units.
    """
    stop, frame = start + frames, song.frame
    streams = song.streams
    past = max(start - look_back, 0)
    residual = np.zeros((look_back + frames, 2), np.float32)
    residual[look_back - (start - past) :, 0] = streams["residual"][channel, past:stop]
    if song.channels == 2:
        residual[look_back - (start - past) :, 1] = streams["residual"][1 - channel, past:stop]
    summary = np.zeros((frames // frame, streams["summary"].shape[-1]), np.float32)
    first = start // frame - 1
    skip = 1 if first < 0 else 0
    summary[skip:] = streams["summary"][channel, first + skip : first + frames // frame]
    target = np.stack(
        [streams["residual"][channel, start:stop], 1.0 / streams["unit"][channel, start:stop]], -1
    )
    inputs = {
        "summary": summary,
        "residual": residual,
        "side": streams["side"][channel, start:stop].astype(np.float32),
        "base": streams["base"][channel, start:stop].astype(np.float32),
    }
    return inputs, target


class CropSampler:
    """Draws batch number i of epoch j: the same numbers give the same crops, in any order.

    Crops are uniform over the frames of all songs' ``split``; ``shares`` may weigh songs
    (retraining replays old ones). A crop never crosses a split or a song.
    """

    def __init__(
        self,
        songs: Sequence[SongFeatures],
        *,
        rows: int,
        frames: int,
        look_back: int,
        seed: int,
        shares: Sequence[float] | None = None,
        split: str = TRAIN,
    ) -> None:
        self._songs = songs
        self._rows, self._frames, self._look_back, self._seed = rows, frames, look_back, seed
        # Crops begin on whole frames of the network.
        self._first = [-(-s.splits.get(split, (0, 0))[0] // s.frame) for s in songs]
        stops = [s.splits.get(split, (0, 0))[1] for s in songs]
        places = [
            max((stop - frames) // s.frame - first + 1, 0)
            for s, first, stop in zip(songs, self._first, stops, strict=True)
        ]
        self._places = places
        weights = np.array(
            [
                p * s.channels * w
                for p, s, w in zip(places, songs, shares or [1.0] * len(songs), strict=True)
            ],
            np.float64,
        )
        if not weights.sum() > 0:
            raise CorpusError(
                f"no song has {frames} frames in its {split} passage: "
                "add longer songs, or lower crop_frames in params.yaml"
            )
        ends = np.cumsum(weights / weights.sum())
        self._ends = ends / ends[-1]

    def batch(self, epoch: int, index: int, rank: int = 0, workers: int = 1) -> Batch:
        """Return inputs, each (rows, …) float32, and targets (rows, frames, 2).

        Of ``workers`` that share the batch, the one of this ``rank`` (from 0) gets its part of
        the rows: all parts together are the whole batch. The cost does not grow with the songs
        but for a binary search.
        """
        rng = np.random.default_rng([self._seed, epoch, index])
        rows = []
        owners = np.searchsorted(self._ends, rng.random(self._rows), side="right")
        for number, i in enumerate(owners):
            song = self._songs[i]
            channel = int(rng.integers(song.channels))
            start = (self._first[i] + int(rng.integers(self._places[i]))) * song.frame
            if number % workers == rank:
                rows.append(network_inputs(song, channel, start, self._frames, self._look_back))
        return _stacked(rows)


def passage_batches(song: SongFeatures, split: str, frames: int, look_back: int) -> Iterator[Batch]:
    """Yield consecutive inputs of a passage, all channels at once; the state goes on from each.

    One batch is in memory at a time, however long the passage; frames at its end that fill
    no batch are left out.
    """
    start, stop = song.splits.get(split, (0, 0))
    start = -(-start // song.frame) * song.frame
    for at in range(start, stop - frames + 1, frames):
        rows = [network_inputs(song, c, at, frames, look_back) for c in range(song.channels)]
        yield _stacked(rows)


def _stacked(rows: Sequence[Batch]) -> Batch:
    """Give rows (inputs, target) a batch axis."""
    inputs = {name: np.stack([row[0][name] for row in rows]) for name in rows[0][0]}
    return inputs, np.stack([row[1] for row in rows])

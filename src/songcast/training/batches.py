"""Batches for training: random crops of the songs' features, reproducible by their number."""

from collections.abc import Iterator, Sequence
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from songcast.data.corpus import TRAIN, VALIDATION
from songcast.errors import CorpusError
from songcast.forecasting.features import fill_side, own_size, side_size, summary_size
from songcast.forecasting.stacking import Stacking
from songcast.training.feature_cache import SongFeatures
from songcast.training.feature_streams import CHUNK_FRAMES, dequantised, derived

Rows = NDArray[np.floating[Any]]
# Inputs of the network by name, and the target.
Batch = tuple[dict[str, Rows], Rows]
# A song, one of its channels, and a frame.
Place = tuple[SongFeatures, int, int]


def network_inputs(places: Sequence[Place], frames: int, look_back: int) -> Batch:
    """Return inputs of the network, each (places, …), and the target, from each place on.

    Starts and ``frames`` are multiples of the songs' ``step_frames``. Zeros precede a song's
    first frame. The target is (places, frames, 2): residual and LSB, in units. Streams in half
    precision stay so, which halves the bytes to copy to the device.
    """
    song, count = places[0][0], len(places)
    steps, summary = frames // song.step_frames, summary_size(song.experts, song.step_frames)
    inputs: dict[str, Rows] = {
        "summary": np.zeros((count, steps, summary), np.float16),
        "residual": np.zeros((count, look_back + frames, 2), np.float16),
        "side": np.zeros((count, frames, side_size(song.experts)), np.float16),
        "base": np.zeros((count, frames, 3 * Stacking.components), np.float16),
    }
    target = np.empty((count, frames, 2), np.float32)
    for row, place in enumerate(places):
        _fill({name: rows[row] for name, rows in inputs.items()}, target[row], place)
    return inputs, target


def _fill(inputs: dict[str, Rows], target: Rows, place: Place) -> None:
    """Read the inputs and the target of one place from the disk."""
    song, channel, start = place
    frames, experts, step = len(target), song.experts, song.step_frames
    summary, residual = inputs["summary"], inputs["residual"]
    stop, past = start + frames, min(len(residual) - frames, start)
    # The steps of the residuals before the place; the LSTM reads the last one of them.
    before, size = -(-past // step), own_size(experts, step)
    rows = summary[0 if before else 1 :]
    for number, c in enumerate((channel, 1 - channel)[: song.channels]):
        steps = song.read("summary", c, start // step - before, stop // step)
        rows[:, number * size : (number + 1) * size] = steps[max(before - 1, 0) : -1]
        squashed = steps[:, 2 * experts : -2].reshape(-1)
        residual[-past - frames :, number] = squashed[-past - frames :]
    rows[:, 2 * size :] = channel, song.channels - 1
    chunk, skip = divmod(start, CHUNK_FRAMES)
    samples = song.read("samples", channel, start - skip, stop)
    distances = song.read("distances", channel, start - skip, stop)
    (state,) = song.read("mixing", channel, chunk, chunk + 1)
    target[:], inputs["base"][:] = derived(samples, distances, state, skip)
    differences = dequantised(song.read("differences", channel, start, stop), experts)
    first = residual[-frames:, 1] if channel else 0.0
    fill_side(inputs["side"], differences, first, target[:, 1], channel, song.channels)


class CropSampler:
    """Draws batch number i of epoch j: the same numbers give the same crops, in any order.

    The songs lie side by side on a line from 0 to 1, each as long as its share of all crops: the
    frames of its train split times its channels, times its weight in ``shares`` (retraining replays
    old songs). Row r of a batch of B is uniform over the r-th of B equal parts of the line. So
    crops are uniform over all frames, and a worker that has some rows needs the songs of its part
    alone. A crop never crosses a split or a song. Raises ``CorpusError`` if no song has a passage
    of ``frames``.
    """

    def __init__(
        self,
        songs: Sequence[SongFeatures],
        *,
        batch_size: int,
        frames: int,
        look_back: int,
        seed: int,
        shares: Sequence[float] | None = None,
    ) -> None:
        self.songs, self.batch_size = songs, batch_size
        self._frames, self._look_back, self._seed = frames, look_back, seed
        # Crops begin at a step of the network.
        splits = [song.splits.get(TRAIN, (0, 0)) for song in songs]
        self._first = [
            -(-split[0] // s.step_frames) for s, split in zip(songs, splits, strict=True)
        ]
        self._places = [
            max((stop - frames) // s.step_frames - first + 1, 0)
            for s, first, (_, stop) in zip(songs, self._first, splits, strict=True)
        ]
        samples = np.multiply(self._places, [song.channels for song in songs])
        ends = np.cumsum(np.append(0.0, samples * (1.0 if shares is None else shares)))
        if not ends[-1] > 0:
            raise CorpusError(
                f"no song has {frames} frames in its {TRAIN} passage: "
                "add longer songs, or lower crop_frames in params.yaml"
            )
        self._begins, self._ends = ends[:-1] / ends[-1], ends[1:] / ends[-1]

    def batch(self, epoch: int, index: int, rank: int = 0, workers: int = 1) -> Batch:
        """Return inputs, each (batch_size, …), and targets (batch_size, frames, 2) float32.

        ``workers`` may share a batch: the worker of this ``rank`` (from 0) gets its part of the
        rows, and all parts, one after another, are the whole batch. The cost grows with the
        logarithm of the number of songs.
        """
        rng, size = np.random.default_rng([self._seed, epoch, index]), self.batch_size
        rows = np.arange(size)
        # Rounding must not move a row into the next part, of which another worker has the songs.
        line = np.minimum((rows + rng.random(size)) / size, np.nextafter((rows + 1) / size, 0.0))
        places: list[Place] = []
        for position in line[rank * size // workers : (rank + 1) * size // workers]:
            i = int(np.searchsorted(self._ends, position, side="right"))
            song, count = self.songs[i], self._places[i] * self.songs[i].channels
            part = (position - self._begins[i]) / (self._ends[i] - self._begins[i])
            channel, place = divmod(min(int(part * count), count - 1), self._places[i])
            places.append((song, channel, (self._first[i] + place) * song.step_frames))
        return network_inputs(places, self._frames, self._look_back)

    def share(self, rank: int, workers: int) -> tuple[list[SongFeatures], list[SongFeatures]]:
        """Return the songs that a worker's batches read, and those to validate on there.

        Each song is validated by one worker, which reads it for its batches too, if any does.
        """
        middles = np.minimum((self._begins + self._ends) / 2 * workers, workers - 1)
        read = (self._begins < (rank + 1) / workers) & (self._ends > rank / workers)
        read &= self._begins < self._ends
        own = middles.astype(int) == rank
        return list(compress(self.songs, read)), list(compress(self.songs, own))


def validation_batches(song: SongFeatures, frames: int, look_back: int) -> Iterator[Batch]:
    """Yield consecutive inputs of the validation passage, all channels at once.

    One batch is in memory at a time, however long the passage is; frames at its end that do
    not fill a batch are left out.
    """
    start, stop = song.splits.get(VALIDATION, (0, 0))
    start = -(-start // song.step_frames) * song.step_frames
    for at in range(start, stop - frames + 1, frames):
        yield network_inputs([(song, c, at) for c in range(song.channels)], frames, look_back)

"""The continuation model: conditioned on a song, it generates the frames that follow."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from songcast.audio.songs import Song
from songcast.bundle import read_arrays, read_manifest, write_bundle
from songcast.continuation.conditioning import Block, Conditioning, Passage, Prompt, to_int16
from songcast.continuation.features import limited
from songcast.continuation.lattice import LatticeState
from songcast.continuation.level_guard import LevelGuard
from songcast.continuation.sampler import FUTURE, Sampler, SamplingOptions, Weights
from songcast.continuation.settings import NetworkSettings, check_request
from songcast.distributed.engine import free_cores
from songcast.errors import BundleError, ContinuationError
from songcast.forecasting.forecaster import check_channels

Samples = NDArray[np.int16]

KIND = "continuation"
# The network processes so many blocks of the song before it generates.
PROMPT_BLOCKS = 12


class ContinuationModel:
    """Continues songs of one or two channels at any sample rate.

    ``copy_share``: minimum share of the retrieved excitation in a continuation, 0 to 1.
    """

    def __init__(self, network: Any, settings: NetworkSettings, copy_share: float) -> None:
        self.network = network
        self.settings = settings
        self.copy_share = copy_share
        self._weights = Weights.of(network)

    def continue_song(
        self, song: Song, seconds: float = 5.0, temperature: float = 1.0, seed: int = 0
    ) -> Song:
        """Return the next ``seconds`` of ``song``: the continuation only, clipped to int16.

        ``temperature``: 0 is greedy, 1 is as learned, higher is more random. The same ``seed``
        gives the same samples. Raises ``ContinuationError``.
        """
        return self.continue_songs(song, seconds, temperature, [seed])[0]

    def continue_songs(
        self, song: Song, seconds: float, temperature: float, seeds: Sequence[int]
    ) -> list[Song]:
        """Return one continuation for each seed, generated in threads from one prompt."""
        for seed in seeds:
            check_request(seconds, temperature, seed)
        check_song(song, self.settings.look_back)
        prompt = Prompt(song.samples, song.sample_rate_hz)
        frames = frames_of(song, seconds)

        def one(seed: int) -> Song:
            samples = self.generate(prompt, frames, temperature, seed)
            return Song(samples=samples, sample_rate_hz=song.sample_rate_hz, name=song.name)

        with ThreadPoolExecutor(min(len(seeds), free_cores())) as pool:
            return list(pool.map(one, seeds))

    def stream_song(
        self, song: Song, seconds: float = 5.0, temperature: float = 1.0, seed: int = 0
    ) -> "Stream":
        """Prompt on ``song`` and return its continuation block by block, as it is made.

        The blocks are (frames, channels) int16; together they are what ``continue_song`` gives.
        Raises ``ContinuationError`` at once.
        """
        check_request(seconds, temperature, seed)
        check_song(song, self.settings.look_back)
        prompt = Prompt(song.samples, song.sample_rate_hz)
        return self.stream(prompt, frames_of(song, seconds), temperature, seed)

    def generate(self, prompt: Prompt, frames: int, temperature: float, seed: int) -> Samples:
        """Return the next ``frames`` after the prompt, (frames, channels) int16."""
        return np.concatenate(list(self.stream(prompt, frames, temperature, seed)))

    def stream(self, prompt: Prompt, frames: int, temperature: float, seed: int) -> "Stream":
        """Return the next ``frames`` after the prompt, block by block."""
        options = SamplingOptions(temperature=temperature, copy_share=self.copy_share)
        return Stream(prompt, self._weights, options, frames, seed)

    def save(self, folder: Path, details: dict[str, Any], history_csv: str = "") -> None:
        """Write the bundle; ``details`` go into its bundle.json."""
        write_bundle(
            folder,
            kind=KIND,
            arrays={w.path: np.array(w, np.float32) for w in self.network.weights},
            texts={"history.csv": history_csv},
            details={
                **details,
                "look_back": self.settings.look_back,
                "network": asdict(self.settings),
                "copy_share": self.copy_share,
            },
        )

    @classmethod
    def load(cls, folder: Path) -> "ContinuationModel":
        """Read a bundle written by ``save``. Raises ``BundleError``."""
        manifest = read_manifest(folder)
        config = manifest.get("network", {})
        if manifest["kind"] != KIND or "head_units" not in config:
            raise BundleError(f"{folder}: no continuation model here; `make run` trains one")
        settings = NetworkSettings(**{**config, "head_units": tuple(config["head_units"])})
        from songcast.continuation.network import build_network

        network, arrays = build_network(settings), read_arrays(folder)
        for variable in network.weights:
            variable.assign(arrays[variable.path])
        return cls(network, settings, float(manifest["copy_share"]))


class Stream(Iterator[Samples]):
    """A continuation as an iterator of blocks. ``clipped``: samples clipped to int16 so far."""

    def __init__(
        self, prompt: Prompt, weights: Weights, options: SamplingOptions, frames: int, seed: int
    ) -> None:
        rng = np.random.default_rng(seed)
        # Two random streams: the number of draws from the first must not change the second.
        self._rng, places = rng, np.random.default_rng([seed, 1])
        self._rows = prompt.rows
        self._options = options
        self._left = frames
        self._sampler = Sampler(weights, len(prompt.rows), prompt.rows.block)
        self._filter = LatticeState(len(prompt.rows), prompt.rows.order)
        self._guard = LevelGuard(prompt)
        self._conditioning = Conditioning(prompt, places, PROMPT_BLOCKS)
        self._next = next(self._conditioning)
        self.clipped = 0
        self._process_prompt()

    def __next__(self) -> Samples:
        """Return the next block, (frames, channels) int16; the last one may be shorter."""
        if self._left <= 0:
            raise StopIteration
        block = self._advance()
        random = self._rng.random((len(self._rows), self._rows.block, 2))
        excitation = self._sampler.draw(
            limited(block.excitation),
            self._following(),
            block.nearness,
            self._options,
            random,
        )
        rows = self._filter.synthesise(excitation.astype(np.float64), block.first, block.last)
        rows = self._guard.apply(rows)
        samples, clipped = to_int16((self._rows.rotation.T @ rows).T[: self._left])
        self._left -= len(samples)
        self.clipped += clipped
        return samples

    def _process_prompt(self) -> None:
        """Process the end of the prompt: set the state of the network and of the filter."""
        true = Passage(self._rows, self._rows.stop)
        true.excitation(-PROMPT_BLOCKS - 1)
        for index in range(-PROMPT_BLOCKS, 0):
            block = self._advance()
            start = self._rows.stop + index * self._rows.block
            rows = self._rows.between(start, start + self._rows.block)
            self._filter.analyse(rows, block.first, block.last)
            excitation = limited(true.excitation(index))
            self._sampler.force(
                excitation, limited(block.excitation), self._following(), block.nearness
            )

    def _advance(self) -> Block:
        block, self._next = self._next, next(self._conditioning)
        return block

    def _following(self) -> NDArray[np.float32]:
        """The retrieved excitation that follows the current block."""
        return limited(self._next.excitation[:, :FUTURE])


def frames_of(song: Song, seconds: float) -> int:
    """Return the number of frames in ``seconds``, at least one."""
    return max(round(seconds * song.sample_rate_hz), 1)


def check_song(song: Song, look_back: int) -> None:
    """Raise ``ContinuationError`` or ``AudioError`` for a song that cannot be continued."""
    check_channels(song)
    if song.frames < look_back:
        raise ContinuationError(
            f"{song.name}: {song.frames} frames are too short to continue; "
            f"give a song of {look_back} frames or more"
        )

"""The continuation model: conditioned on a song, it generates the frames that follow."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from songcast.audio.formats import check_channels
from songcast.audio.songs import Song
from songcast.bundle import read_arrays, read_manifest, write_bundle
from songcast.continuation.level_model import (
    FEATURES,
    MEAN_SOURCES,
    PASSAGES,
    PAST_SECONDS,
    SMOOTH,
    SOFTNESS_DB,
    LevelNetwork,
    Present,
    basis,
    pretrained,
)
from songcast.continuation.levels import BANDS, band_levels
from songcast.continuation.prompt import MIN_FRAMES, Prompt, check_request, extrapolated
from songcast.continuation.rendering import BLOCK_HOPS, PER_HOP, Limiter, Path, Shaper, cross_faded
from songcast.errors import BundleError, ContinuationError

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Samples = NDArray[np.int16]

KIND = "continuation"
# The levels are predicted for so long; then the gain returns to 0 dB and the song is followed.
PREDICTED_SECONDS, RETURN_SECONDS = 10.0, 5.0
# The gain is limited. It is corrected so many times, by so much of the measured difference: bands
# and windows overlap, so a correction has less effect than its size.
MAX_GAIN_DB, CORRECTIONS, OVERSHOOT = 20.0, 2, 1.5
# The end of the song is extrapolated over one hop by linear prediction of this order.
ORDER, ORDER_SECONDS = 64, 0.1
# At temperature 1, levels vary by this share of the expected error; independent draws are so many
# bands and one block apart, with this correlation between blocks.
VARIATION_SHARE, VARIATION_BANDS, VARIATION_MEMORY = 0.2, 8, 0.8
# Above temperature 0, the gain changes more slowly after so long.
LIVELY_SECONDS = 1.0
# The expected error of the levels in dB: weights of the functions of time ``basis``.
ERROR_DB = np.array([5.6, -0.3, -0.1, -2.0], np.float32)
# The level over GUARD_SECONDS stays within GUARD_DB of that of the last LEVEL_SECONDS of the song.
LEVEL_SECONDS, GUARD_SECONDS, GUARD_DB = 10.0, 1.5, 3.0


class ContinuationModel:
    """Continues songs of one or two channels at any sample rate."""

    def __init__(
        self,
        arrays: Mapping[str, NDArray[Any]],
        passages: int = PASSAGES,
        softness_db: tuple[float, float] = SOFTNESS_DB,
    ) -> None:
        self.arrays, self.passages = dict(arrays), passages
        self.network = LevelNetwork(arrays, softness_db)

    def continue_song(
        self, song: Song, seconds: float = 5.0, temperature: float = 1.0, seed: int = 0
    ) -> Song:
        """Return the next ``seconds`` of ``song``: the continuation only.

        ``temperature``: 0 is the most probable, 1 is as learned, higher is more random. The same
        ``seed`` gives the same samples. Raises ``ContinuationError``, and ``AudioError`` for more
        than two channels.
        """
        blocks = list(self.stream_song(song, seconds, temperature, seed))
        return replace(song, samples=np.concatenate(blocks))

    def stream_song(
        self, song: Song, seconds: float = 5.0, temperature: float = 1.0, seed: int = 0
    ) -> "Stream":
        """Prompt on ``song`` and return its continuation block by block, as it is made.

        The blocks are (frames, channels) int16; together they are what ``continue_song`` gives.
        Raises what it raises, at once.
        """
        check_request(seconds, temperature, seed)
        check_channels(song.name, song.channels)
        if song.frames < MIN_FRAMES:
            raise ContinuationError(
                f"{song.name}: {song.frames} frames are too short to continue; "
                f"give a song of {MIN_FRAMES} frames or more"
            )
        prompt = Prompt(song.samples, song.sample_rate_hz)
        frames = max(round(seconds * song.sample_rate_hz), 1)
        return self.stream(prompt, frames, temperature, seed)

    def generate(self, prompt: Prompt, frames: int, temperature: float, seed: int) -> Samples:
        """Return the next ``frames`` after the prompt, (frames, channels) int16."""
        return np.concatenate(list(self.stream(prompt, frames, temperature, seed)))

    def stream(self, prompt: Prompt, frames: int, temperature: float, seed: int) -> "Stream":
        """Return the next ``frames`` after the prompt, block by block."""
        return Stream(prompt, self.network, self.passages, frames, temperature, seed)

    def baselines(self) -> dict[str, "ContinuationModel"]:
        """Return simpler models, rendered alike, without the network.

        ``constant``: the mean level of the last 3 s. ``mean``: the mean level of the 8 best
        passages. ``blend``: a linear blend of the best passage, that mean and the present level.
        """
        constant = np.zeros_like(self.arrays["blend"])
        mean = constant.copy()
        mean[MEAN_SOURCES, 0] = 1.0
        plain = self.without_network().arrays
        blends = {"constant": constant, "mean": mean, "blend": pretrained()["linear_blend"]}
        return {
            name: ContinuationModel({**plain, "blend": blend}, 8, (math.inf, math.inf))
            for name, blend in blends.items()
        }

    def without_network(self) -> "ContinuationModel":
        """Return the blend alone: the same model with zero output of the network."""
        zero = {name: np.zeros_like(self.arrays[name]) for name in ("out_kernel", "out_bias")}
        return ContinuationModel({**self.arrays, **zero}, self.passages)

    def save(self, folder: FilePath, details: dict[str, Any], history_csv: str = "") -> None:
        """Write the bundle; ``details`` go into its bundle.json."""
        write_bundle(
            folder,
            kind=KIND,
            arrays=self.arrays,
            history=history_csv,
            details={**details, "passages": self.passages},
        )

    @classmethod
    def load(cls, folder: FilePath) -> "ContinuationModel":
        """Read a bundle written by ``save``. Raises ``BundleError``."""
        manifest = read_manifest(folder)
        if manifest["kind"] != KIND:
            raise BundleError(f"{folder}: no continuation model here; `make run` trains one")
        arrays = read_arrays(folder)
        if len(arrays.get("lstm_kernel", ())) != FEATURES:
            raise BundleError(f"{folder}: made by another version; `make run` trains it again")
        return cls(arrays, manifest["passages"])


class Stream(Iterator[Samples]):
    """A continuation as an iterator of blocks, (frames, channels) int16."""

    def __init__(
        self,
        prompt: Prompt,
        network: LevelNetwork,
        passages: int,
        frames: int,
        temperature: float,
        seed: int,
    ) -> None:
        self._prompt, self._network, self._temperature = prompt, network, temperature
        self._left = frames
        rng = np.random.default_rng(seed)
        self.path = Path(prompt, passages, temperature, rng)
        self._places = self.path.places
        self._present = self._known()
        self._state = network.new_state(BANDS)
        # A random stream for levels only: the number of joins must not change it.
        self._rng = np.random.default_rng([seed, 1])
        self._knots = self._draw()
        self._block = 0
        self._pasted = [self.path.block()]
        self._gains: list[F32] = []
        self._targets: list[F32] = []
        # The mean gain of the block before, (bands,).
        self._mean_gain: F32 | None = None
        # The levels of the passages around the last predicted block.
        self._levels = self._following(-SMOOTH)
        start = self._places[0].frame
        self._before = prompt.between(start - 2 * prompt.hop, start)
        self._limiter = Limiter(prompt.hop, prompt.channels)
        self._shaper: Shaper | None = None
        self._guard = Guard(prompt)

    def __next__(self) -> Samples:
        """Return the next block; the last one may be shorter."""
        if self._left <= 0:
            raise StopIteration
        shaped = self._shaped()
        last = self._left <= len(shaped) - self._prompt.hop
        shaped = self._limiter.limit(shaped, last=last)
        samples = np.rint(shaped[: self._left]).astype(np.int16)
        self._left -= len(samples)
        return samples

    def _shaped(self) -> F64:
        """Return the next block after the gain."""
        prompt, hop = self._prompt, self._prompt.hop
        while len(self._gains) < 3:
            self._add_gains()
        signal = np.concatenate([self._pasted[0], self._pasted[1][: 2 * hop]])
        gains = self._gains[1] = self._corrected()
        if self._shaper is None:
            first = np.concatenate([self._before, signal[: 2 * hop]])
            self._shaper = Shaper(first, self._gains[0], prompt.sample_rate_hz)
            shaped = self._shaper.shape(signal, gains)
            shaped[:hop] = cross_faded(self._extrapolated(), shaped[:hop])
        else:
            shaped = self._shaper.shape(signal, gains + self._guard.gains_db())
        self._guard.measure(shaped)
        self._before = self._pasted[0][-2 * hop :]
        del self._pasted[0], self._gains[0], self._targets[0]
        return shaped

    def _corrected(self) -> F32:
        """Return the gain of the next block, corrected by what it does to the levels.

        A gain per band and window does not give exactly the levels that are wanted, because
        bands and windows overlap. So the block is rendered on trial to measure the difference.
        """
        prompt, hop = self._prompt, self._prompt.hop
        around = 2 * PER_HOP
        gains = np.concatenate([self._gains[0][-around:], self._gains[1], self._gains[2][:around]])
        first = np.concatenate([self._before, self._pasted[0][: 2 * hop]])
        signal = np.concatenate([self._pasted[0], self._pasted[1][: 4 * hop]])
        for _ in range(CORRECTIONS if np.any(gains) else 0):
            trial = Shaper(first, gains[:around], prompt.sample_rate_hz)
            mono = trial.shape(signal, gains[around:]).mean(axis=1)
            levels = band_levels(mono, prompt.sample_rate_hz, PER_HOP)
            gains[around:-around] += OVERSHOOT * (
                self._targets[0] - levels[: len(self._targets[0])]
            )
            gains = np.clip(gains, -MAX_GAIN_DB, MAX_GAIN_DB)
        return gains[around:-around]

    def _add_gains(self) -> None:
        """Add the target levels and gains of the next block, (PER_HOP BLOCK_HOPS, bands) in dB."""
        prompt, first = self._prompt, self._block * BLOCK_HOPS
        windows = np.arange(PER_HOP * BLOCK_HOPS) / PER_HOP
        seconds = (first + windows) / prompt.hops_per_second
        share = np.clip((PREDICTED_SECONDS + RETURN_SECONDS - seconds) / RETURN_SECONDS, 0.0, 1.0)
        predicted = self._predicted(first) if share[0] > 0 else None
        self._block += 1
        self._pasted.append(self.path.block())
        signal = np.concatenate([self._pasted[-2], self._pasted[-1][: 2 * prompt.hop]])
        levels = band_levels(signal.mean(axis=1), prompt.sample_rate_hz, PER_HOP)[: len(windows)]
        gains = np.zeros_like(levels)
        if predicted is not None:
            before, rest = windows.astype(int), (windows % 1)[:, None]
            after = np.minimum(before + 1, BLOCK_HOPS - 1)
            wanted = predicted[before] * (1.0 - rest) + predicted[after] * rest
            gains = np.clip((wanted - levels) * share[:, None], -MAX_GAIN_DB, MAX_GAIN_DB)
            gains = self._livelier(gains, seconds)
        if not self._gains:  # nothing is known before the first block
            self._gains.append(np.repeat(gains[:1], 2 * PER_HOP, axis=0))
        self._gains.append(gains.astype(np.float32))
        self._targets.append(levels + gains)

    def _livelier(self, gains: F32, seconds: F64) -> F32:
        """Return gains that soon change slowly at temperature 1, and ``gains`` at temperature 0.

        Slow gains keep the rhythm of the passage, which the most probable levels have not.
        ``seconds``: (windows,) since the end of the song.
        """
        mean = gains.mean(axis=0)
        before = mean if self._mean_gain is None else self._mean_gain
        self._mean_gain = mean
        slow = before + (mean - before) * (np.arange(len(gains)) + 1.0)[:, None] / len(gains)
        share = min(self._temperature, 1.0) * (1.0 - np.exp(-seconds / LIVELY_SECONDS))
        return np.asarray(gains + share[:, None] * (slow - gains), np.float32)

    def _predicted(self, first: int) -> F32 | None:
        """Return the levels of the block at hop ``first``, with random variation.

        None if all passages have ended.
        """
        hops_per_second = self._prompt.hops_per_second
        following = self._following(first + SMOOTH)
        passages = self._levels = np.concatenate(
            [self._levels[:, -2 * SMOOTH :], following], axis=1
        )
        if np.isnan(passages).all():
            return None
        levels = self._network.predict(self._present, passages, first, hops_per_second, self._state)
        if self._temperature > 0:
            last, self._knots = (
                self._knots,
                VARIATION_MEMORY * self._knots
                + math.sqrt(1.0 - VARIATION_MEMORY**2) * self._draw(),
            )
            rise = (np.arange(BLOCK_HOPS) / BLOCK_HOPS)[:, None]
            knots = last * (1.0 - rise) + self._knots * rise
            error = basis(first, BLOCK_HOPS, hops_per_second) @ ERROR_DB
            spread = self._temperature * VARIATION_SHARE * np.maximum(error, 0.0)[:, None]
            at = np.linspace(0, knots.shape[1] - 1, BANDS)
            varied = [np.interp(at, np.arange(knots.shape[1]), row) for row in knots]
            levels = levels + spread * np.stack(varied)
        return levels

    def _draw(self) -> F64:
        return self._rng.standard_normal(BANDS // VARIATION_BANDS + 1)

    def _following(self, first: int) -> F32:
        """Return the levels of a block of all passages, hop ``first`` after the match."""
        places = self._places
        return np.stack([self._prompt.levels(p.frame, first, BLOCK_HOPS) for p in places])

    def _known(self) -> Present:
        """Return what is known at the end of the song."""
        prompt = self._prompt
        count = round(PAST_SECONDS * prompt.hops_per_second)
        places = self._places
        tables = [
            prompt.levels(f, -1 - count, count) for f in (prompt.stop, *(p.frame for p in places))
        ]
        known = ~np.isnan(tables[0][:, 0])
        past = tables[0][known]
        before = np.stack([table[known] for table in tables[1:]])
        before = np.where(np.isnan(before), past, before)
        distances = np.array([place.distance_db for place in places], np.float32)
        return Present.of(past, before, distances, prompt.hops_per_second)

    def _extrapolated(self) -> F64:
        """Return one hop after the end of the song by linear prediction, (hop, channels)."""
        prompt = self._prompt
        length = max(round(ORDER_SECONDS * prompt.sample_rate_hz), 4 * ORDER)
        end = prompt.between(max(prompt.stop - length, 0), prompt.stop)
        return np.stack([extrapolated(x, ORDER, prompt.hop) for x in end.T], axis=1)


class Guard:
    """Keeps the level of a continuation near that of the end of the song by a slow gain."""

    def __init__(self, prompt: Prompt) -> None:
        length = round(LEVEL_SECONDS * prompt.sample_rate_hz)
        self._target = float(
            np.mean(prompt.between(max(prompt.stop - length, 0), prompt.stop) ** 2)
        )
        self._power = self._target
        block_seconds = BLOCK_HOPS / prompt.hops_per_second
        self._share = 1.0 - math.exp(-block_seconds / GUARD_SECONDS)
        self._before = self._now = 0.0

    def measure(self, shaped: F64) -> None:
        """Take note of a block (frames, channels) that was rendered."""
        unguarded = float(np.mean(shaped**2)) * 10.0 ** (-self._now / 10.0)
        self._power += self._share * (unguarded - self._power)

    def gains_db(self) -> F32:
        """Return the gain of the next block, (PER_HOP BLOCK_HOPS, 1) in dB."""
        over = 10.0 * math.log10((self._power + 0.01) / (self._target + 0.01))
        wanted = float(
            np.clip(np.clip(over, -GUARD_DB, GUARD_DB) - over, -MAX_GAIN_DB, MAX_GAIN_DB)
        )
        self._before, self._now = self._now, self._now + 0.5 * (wanted - self._now)
        rise = np.arange(1, PER_HOP * BLOCK_HOPS + 1)[:, None] / (PER_HOP * BLOCK_HOPS)
        return np.asarray(self._before + (self._now - self._before) * rise, np.float32)

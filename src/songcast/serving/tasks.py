"""The three tasks that a served model does: forecast, continue, score."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from songcast.audio.songs import Song
from songcast.errors import SongcastError
from songcast.forecasting.distribution import BLOCK_FRAMES
from songcast.forecasting.forecaster import Forecaster, check_channels
from songcast.serving.payload import encode_song

TASKS = ("forecast", "continue", "score")
FORMATS = ("wav", "flac", "mp3")
DEFAULTS: dict[str, Any] = {
    "task": "forecast",
    "seconds": 5.0,
    "temperature": 1.0,
    "seed": 0,
    "format": "wav",
}
MAX_TEMPERATURE = 10.0
MAX_SEED = 2**63 - 1

Samples = NDArray[np.int16]
Check = Callable[[], None]


class TaskError(SongcastError):
    """A param of the request is not acceptable."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Checked params of a request; ``task`` says which of the others matter."""

    task: str
    seconds: float
    temperature: float
    seed: int
    format: str

    @classmethod
    def checked(cls, params: Mapping[str, Any], max_seconds: float = 3600.0) -> "Settings":
        """Return valid settings, defaults filled in. Raises ``TaskError`` naming the param."""
        said = {**DEFAULTS, **params}
        for key, allowed in (("task", TASKS), ("format", FORMATS)):
            if said[key] not in allowed:
                raise TaskError(f"{key} is {said[key]!r}: must be one of {', '.join(allowed)}")
        highest = {"seconds": max_seconds, "temperature": MAX_TEMPERATURE, "seed": MAX_SEED}
        for key, limit in highest.items():
            value = said[key]
            sound = isinstance(value, int | float) and math.isfinite(value) and 0 <= value <= limit
            if not sound or (key == "seconds" and value == 0):
                above = "above 0" if key == "seconds" else "from 0"
                raise TaskError(f"{key} is {value!r}: must be a number {above} to {limit:g}")
        return cls(
            task=said["task"],
            seconds=float(said["seconds"]),
            temperature=float(said["temperature"]),
            seed=int(said["seed"]),
            format=said["format"],
        )


def answer(model: Forecaster, song: Song, settings: Settings, check: Check) -> dict[str, Any]:
    """Do the task and return one row of the answer, JSON-able.

    ``check`` is called between blocks; what it raises ends the work. Raises ``SongcastError``
    for what the client did wrong.
    """
    found: dict[str, Any] = {
        "audio": None,
        "format": None,
        "prediction_gain_db": None,
        "bits_per_sample": None,
        "sample_rate_hz": int(song.sample_rate_hz),
    }
    if settings.task == "continue":
        samples = np.concatenate(list(continuation(model, song, settings, check)))
    else:
        samples, gains, bits = heard(model, song, check)
        found |= {"prediction_gain_db": gains, "bits_per_sample": bits}
    if settings.task != "score":
        made = Song(samples=samples, sample_rate_hz=song.sample_rate_hz, name=song.name)
        found |= {"audio": encode_song(made, settings.format), "format": settings.format}
    return found


def continuation(
    model: Forecaster, song: Song, settings: Settings, check: Check
) -> Iterator[Samples]:
    """Yield the continuation block by block. Raises ``SongcastError``."""
    blocks = model.stream_song(
        song, seconds=settings.seconds, temperature=settings.temperature, seed=settings.seed
    )
    for block in blocks:
        check()
        yield block


def heard(model: Forecaster, song: Song, check: Check) -> tuple[Samples, list[float], float]:
    """Forecast ``song``: the predicted samples, gain in dB of each channel, bits per sample.

    The samples are those that `songcast predict` writes. Sums are kept block by block: memory
    is that of the samples.
    """
    check_channels(song)
    session = model.session(song.channels, song.sample_rate_hz)
    predicted = np.empty_like(song.samples)
    power, error = np.zeros(song.channels), np.zeros(song.channels)
    bits = 0.0
    for start in range(0, song.frames, BLOCK_FRAMES):
        check()
        block = np.ascontiguousarray(song.samples[start : start + BLOCK_FRAMES])
        mixture = session.forecast_block(block)
        mean = mixture.mean
        predicted[start : start + BLOCK_FRAMES] = np.clip(np.rint(mean), -32768, 32767)
        power += np.sum(block.astype(np.float64) ** 2, axis=0)
        error += np.sum((block - mean) ** 2, axis=0)
        bits += float(np.sum(mixture.bits(block)))
    return predicted, gains_db(power, error), bits / song.samples.size


def gains_db(power: NDArray[np.float64], error: NDArray[np.float64]) -> list[float]:
    """Return prediction gains; JSON knows no infinity, so silence and perfection are at 0, 200.

    >>> gains_db(np.array([1e6, 0.0]), np.array([1e2, 0.0]))
    [40.0, 0.0]
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        found = 10.0 * np.log10(power / error)
    return [float(g) for g in np.clip(np.nan_to_num(found, nan=0.0), -200.0, 200.0)]

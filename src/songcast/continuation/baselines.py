"""Baselines for continuation: simple ways to make a song longer."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from songcast.continuation.prompt import Prompt, extrapolated

Samples = NDArray[np.int16]
LOOP_SECONDS = 1.0
BURG_SECONDS = 0.0116


def silence(prompt: Prompt, frames: int) -> Samples:
    """Return silence."""
    return np.zeros((frames, prompt.channels), np.int16)


def loop(prompt: Prompt, frames: int) -> Samples:
    """Repeat the last second."""
    last = prompt.samples[-round(LOOP_SECONDS * prompt.sample_rate_hz) :]
    return np.resize(last, (frames, prompt.channels))


def burg(prompt: Prompt, frames: int) -> Samples:
    """Linear extrapolation: the Burg filter of the last second, run without excitation."""
    end = prompt.samples[-round(LOOP_SECONDS * prompt.sample_rate_hz) :].astype(np.float64)
    order = round(BURG_SECONDS * prompt.sample_rate_hz)
    more = np.stack([extrapolated(channel, order, frames) for channel in end.T], axis=1)
    return np.clip(np.rint(more), -32768, 32767).astype(np.int16)


def paste(prompt: Prompt, frames: int) -> Samples:
    """Repeat the song from the place that resembles its end most."""
    more = prompt.samples[prompt.places(prompt.stop, 1)[0].frame :]
    return np.resize(more, (frames, prompt.channels))


BASELINES: Mapping[str, Callable[[Prompt, int], Samples]] = {
    "silence": silence,
    "loop": loop,
    "burg": burg,
    "paste": paste,
}

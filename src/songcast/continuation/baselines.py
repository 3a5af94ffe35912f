"""Baselines for continuation: simple ways to make a song longer."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from songcast.continuation.conditioning import Prompt, to_int16
from songcast.continuation.lattice import LatticeState

Samples = NDArray[np.int16]
LOOP_SECONDS = 1.0


def silence(prompt: Prompt, frames: int) -> Samples:
    """Return silence."""
    return np.zeros((frames, len(prompt.rows)), np.int16)


def loop(prompt: Prompt, frames: int) -> Samples:
    """Repeat the last second."""
    rows = prompt.rows
    return _repeated(rows.samples[max(rows.stop - rows.frames(LOOP_SECONDS), 0) :], frames)


def burg(prompt: Prompt, frames: int) -> Samples:
    """Linear extrapolation: the Burg filter of the last second, run without excitation."""
    rows = prompt.rows
    state = LatticeState(len(rows), rows.order)
    end = rows.between(rows.stop - rows.frames(LOOP_SECONDS), rows.stop)
    state.analyse(end, prompt.seed, prompt.seed)
    ringing = state.synthesise(np.zeros((len(rows), frames)), prompt.seed, prompt.seed)
    return to_int16((rows.rotation.T @ ringing).T)[0]


def paste(prompt: Prompt, frames: int) -> Samples:
    """Repeat the song from the place that resembles its end most."""
    rows = prompt.rows
    place = prompt.retrieval.find(rows.stop)
    return _repeated(rows.samples[place.frame if place else 0 :], frames)


BASELINES: Mapping[str, Callable[[Prompt, int], Samples]] = {
    "silence": silence,
    "loop": loop,
    "burg": burg,
    "paste": paste,
}


def _repeated(samples: Samples, frames: int) -> Samples:
    return np.tile(samples, (-(-frames // len(samples)), 1))[:frames]

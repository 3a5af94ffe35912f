"""The continuation network as one compiled loop over its exported weights.

It runs freely, on excitations that it samples itself, or teacher-forced, on given ones. Forced,
its output equals that of the Keras network. Buffers are allocated once; the inner loop of every
matrix product runs over contiguous outputs.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from songcast.continuation.features import (
    FAST,
    FAST_FEATURES,
    SLOW,
    SLOW_FEATURES,
    fast_features,
    sight,
    slow_features,
)
from songcast.continuation.settings import AHEAD, MAX_LOG_SCALE, MIN_LOG_SCALE
from songcast.forecasting.compiled import compiled, inlined

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

# Samples beyond this are clipped, so that no sample makes the filter ring for long.
LIMIT = 12.0
# Frames of the past that are kept, and frames of the passage known after the block.
PAST, FUTURE = SLOW, 2 * SLOW


@dataclass(frozen=True)
class Weights:
    """The arrays of the network, (inputs, outputs) float32 each, as the kernel takes them."""

    slow: tuple[F32, F32, F32]
    rhythm: tuple[F32, F32]
    fast: tuple[F32, F32, F32]
    context: tuple[F32, F32]
    look_back: F32
    hidden: tuple[F32, F32]
    answer: tuple[F32, F32]
    negative_slope: float

    @classmethod
    def of(cls, network: Any) -> "Weights":
        """Export the weights of the Keras network."""

        def of(name: str) -> Any:
            layer = network.get_layer(name)
            return tuple(np.ascontiguousarray(w, np.float32) for w in layer.get_weights())

        return cls(
            slow=of("slow_lstm"),
            rhythm=of("slow_out"),
            fast=of("fast_lstm"),
            context=of("context"),
            look_back=of("look_back")[0],
            hidden=of("hidden"),
            answer=of("answer"),
            negative_slope=float(network.get_layer("head_0").negative_slope),
        )


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """``copy_share``: minimum share of the retrieved excitation, 0 to 1."""

    temperature: float
    copy_share: float


class Sampler:
    """The state of the network during one continuation of ``rows`` rows."""

    def __init__(self, weights: Weights, rows: int, block: int) -> None:
        self._weights = weights
        self._block = block
        self.own = np.zeros((rows, PAST + block), np.float32)
        self._passage = np.zeros((rows, PAST + block + FUTURE), np.float32)
        self._slow = np.zeros((rows, 2, weights.slow[1].shape[0]), np.float32)
        self._fast = np.zeros((rows, 2, weights.fast[1].shape[0]), np.float32)
        self.mixtures = np.zeros((rows, block, weights.answer[1].shape[0]), np.float32)

    def force(self, own: F32, passage: F32, following: F32, nearness: tuple[float, float]) -> None:
        """Process a block of true excitations ``own`` (rows, block); fill ``mixtures``.

        ``passage`` (rows, block): the retrieved excitation; ``following`` (rows, FUTURE): the
        excitation after it.
        """
        self._load(passage, following)
        self.own[:, PAST:] = own
        nothing = np.empty((len(own), self._block, 0))
        self._run(nothing, nearness, 1.0, 0.0)

    def draw(
        self,
        passage: F32,
        following: F32,
        nearness: tuple[float, float],
        options: SamplingOptions,
        random: F64,
    ) -> F32:
        """Return a block of sampled excitations (rows, block), a copy.

        ``random`` (rows, block, 2): uniform in [0, 1).
        """
        self._load(passage, following)
        self._run(random, nearness, options.temperature, options.copy_share)
        return self.own[:, PAST:].copy()

    def _load(self, passage: F32, following: F32) -> None:
        self.own[:, :PAST] = self.own[:, -PAST:]
        self._passage[:, :PAST] = self._passage[:, self._block : self._block + PAST]
        self._passage[:, PAST : PAST + self._block] = passage
        self._passage[:, PAST + self._block :] = following

    def _run(
        self, random: F64, nearness: tuple[float, float], temperature: float, copy_share: float
    ) -> None:
        w = self._weights
        run(
            self.own,
            self._passage,
            random,
            np.array(nearness, np.float32),
            temperature,
            copy_share if nearness[0] else 0.0,
            self._slow,
            self._fast,
            w.slow,
            w.rhythm,
            w.fast,
            w.context,
            w.look_back,
            w.hidden,
            w.answer,
            w.negative_slope,
            self.mixtures,
        )


@inlined
def add_product(x: F32, kernel: F32, out: F32) -> None:
    """Add ``x @ kernel`` to ``out`` (outputs,)."""
    for i in range(len(x)):
        xi, row = x[i], kernel[i]
        for j in range(len(out)):
            out[j] += xi * row[j]


@inlined
def leak(x: F32, slope: float) -> None:
    """LeakyReLU in place."""
    for i in range(len(x)):
        x[i] = max(x[i], np.float32(0)) + np.float32(slope) * min(x[i], np.float32(0))


@inlined
def lstm_step(x: F32, kernel: F32, recurrent: F32, bias: F32, state: F32, gates: F32) -> None:
    """One step of Keras' LSTM; ``state`` (2, units) holds h and c, ``gates`` (4 units,) scratch."""
    units = state.shape[1]
    gates[:] = bias
    add_product(x, kernel, gates)
    add_product(state[0], recurrent, gates)
    for u in range(units):
        i = 1.0 / (1.0 + math.exp(-gates[u]))
        f = 1.0 / (1.0 + math.exp(-gates[units + u]))
        o = 1.0 / (1.0 + math.exp(-gates[3 * units + u]))
        # The bias of 1e-20 keeps a state that decays from becoming subnormal.
        c = f * state[1, u] + i * math.tanh(gates[2 * units + u]) + 1e-20
        state[1, u] = c
        state[0, u] = o * math.tanh(c)


@compiled
def run(
    own: F32,
    passage: F32,
    random: F64,
    nearness: F32,
    temperature: float,
    copy_share: float,
    slow_state: F32,
    fast_state: F32,
    slow: tuple[F32, F32, F32],
    rhythm: tuple[F32, F32],
    fast: tuple[F32, F32, F32],
    context: tuple[F32, F32],
    look_back: F32,
    hidden: tuple[F32, F32],
    answer: tuple[F32, F32],
    slope: float,
    mixtures: F32,
) -> None:
    """Run one block: sample ``own``, or read it where ``random`` (rows, block, 2) is empty.

    ``own`` (rows, PAST + block), ``passage`` (rows, PAST + block + FUTURE). States (rows, 2,
    units) are carried; ``mixtures`` (rows, block, 3 M + 1) is filled.
    """
    rows, block = mixtures.shape[0], mixtures.shape[1]
    seen = look_back.shape[0]
    fed = rhythm[0].shape[1]
    levels = np.empty((rows, SLOW_FEATURES), np.float32)
    pulse = np.empty((rows, FAST_FEATURES), np.float32)
    fast_inputs = np.empty((rows, FAST_FEATURES + fed), np.float32)
    sound = np.empty(fast_state.shape[2] + FAST_FEATURES + fed, np.float32)
    slow_gates = np.empty(slow[2].shape[0], np.float32)
    fast_gates = np.empty(fast[2].shape[0], np.float32)
    contexts = np.empty((rows, context[1].shape[0]), np.float32)
    view = np.empty(seen, np.float32)
    first = np.empty(look_back.shape[1], np.float32)
    second = np.empty(hidden[1].shape[0], np.float32)
    for start in range(0, block, FAST):
        t0 = PAST + start
        if start % SLOW == 0:
            slow_features(own, passage, t0, nearness, levels)
            for r in range(rows):
                lstm_step(levels[r], slow[0], slow[1], slow[2], slow_state[r], slow_gates)
                out = fast_inputs[r, FAST_FEATURES:]
                out[:] = rhythm[1]
                add_product(slow_state[r, 0], rhythm[0], out)
                leak(out, slope)
        fast_features(own, passage, t0, pulse)
        for r in range(rows):
            fast_inputs[r, :FAST_FEATURES] = pulse[r]
            lstm_step(fast_inputs[r], fast[0], fast[1], fast[2], fast_state[r], fast_gates)
            sound[: fast_state.shape[2]] = fast_state[r, 0]
            sound[fast_state.shape[2] :] = fast_inputs[r]
            contexts[r] = context[1]
            add_product(sound, context[0], contexts[r])
        for r in range(rows):
            for t in range(t0, t0 + FAST):
                sight(own[r], passage[r], t, seen - 2 * AHEAD, view)
                first[:] = contexts[r]
                add_product(view, look_back, first)
                leak(first, slope)
                second[:] = hidden[1]
                add_product(first, hidden[0], second)
                leak(second, slope)
                found = mixtures[r, t - PAST]
                found[:] = answer[1]
                add_product(second, answer[0], found)
                finish(found, passage[r, t])
                if random.shape[2]:
                    u = random[r, t - PAST]
                    own[r, t] = draw(found, passage[r, t], u[0], u[1], temperature, copy_share)


@inlined
def finish(found: F32, passage: float) -> None:
    """Convert the output (3 M + 1,) to log weights, locations, log scales and share, in place."""
    m = (len(found) - 1) // 3
    top = found[0]
    for i in range(1, m):
        top = max(top, found[i])
    total = 0.0
    for i in range(m):
        total += math.exp(found[i] - top)
    share = 1.0 / (1.0 + math.exp(2.0 - found[3 * m]))
    found[3 * m] = share
    for i in range(m):
        found[i] -= top + math.log(total)
        found[m + i] += share * passage
        found[2 * m + i] = min(max(found[2 * m + i], MIN_LOG_SCALE), MAX_LOG_SCALE)


@inlined
def draw(
    found: F32, passage: float, u: float, v: float, temperature: float, copy_share: float
) -> float:
    """Sample one excitation with at least ``copy_share`` of the retrieved excitation in it.

    The remaining part is attenuated so that the level stays the same.
    """
    m = (len(found) - 1) // 3
    share = found[3 * m]
    kept = max(share, copy_share)
    part = math.sqrt((1.0 - kept * kept) / (1.0 - share * share + 1e-6))
    if temperature == 0.0:
        own = 0.0
        for i in range(m):
            own += math.exp(found[i]) * (found[m + i] - share * passage)
    else:
        chosen, sum_ = m - 1, 0.0
        for i in range(m):
            sum_ += math.exp(found[i])
            if u < sum_:
                chosen = i
                break
        v = min(max(v, 1e-7), 1.0 - 1e-7)
        noise = math.exp(found[2 * m + chosen]) * (math.log(v) - math.log(1.0 - v))
        own = found[m + chosen] - share * passage + temperature * noise
    drawn: float = min(max(kept * passage + part * own, -LIMIT), LIMIT)
    return drawn

"""The multi-song network and its loss: an LSTM per step, a LeakyReLU head per sample.

It starts as the stacking's mixture: while its last layer is zero, the output equals the mixture
at its input. It uses ``keras.ops`` and runs on the TensorFlow and JAX backends.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from songcast.forecasting import features
from songcast.forecasting.keras_backend import import_keras
from songcast.forecasting.network_engine import NetworkSettings
from songcast.forecasting.stacking import Stacking

keras = import_keras()
ops = keras.ops
Layer: Any = keras.layers.Layer


class Windows(Layer):
    """(batch, look_back + n, c) -> (batch, n, look_back * c): the rows before each of n rows."""

    def __init__(self, look_back: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.look_back = look_back

    def call(self, x: Any) -> Any:
        """Row t gets rows t … t + look_back - 1 of the input."""
        n = ops.shape(x)[1] - self.look_back
        return ops.concatenate([x[:, i : i + n] for i in range(self.look_back)], axis=-1)

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[int | None, ...]:
        """Return the output's shape, which JAX cannot infer for an open number of rows."""
        batch, rows, columns = input_shape
        return batch, None if rows is None else rows - self.look_back, self.look_back * columns


def corrected_mixture(correction: Any, side: Any, base: Any, experts: int, mixtures: int) -> Any:
    """Apply the head's output to the stacking's mixture.

    ``correction`` (batch, n, experts + 1 + 3 M), ``side`` (batch, n, side), ``base`` (batch, n, 3
    M). The first ``experts`` outputs are weights of the experts' differences from the stacked mean.
    The next one shifts all locations, the rest are added to log weights, locations and log scales.
    Returns (batch, n, 3 M): log weights (normalised), locations, log scales, in units.
    """
    k, m = experts, mixtures
    # Split instead of sliced: the gradient of a slice is a sum of padded arrays.
    shares, shift, weights, moves, widths = ops.split(
        correction, [k, k + 1, k + 1 + m, k + 1 + 2 * m], axis=-1
    )
    log_weights, locations, log_scales = ops.split(base, 3, axis=-1)
    difference = ops.split(side, [k], axis=-1)[0]
    shift = shift + ops.sum(shares * difference, axis=-1, keepdims=True)
    return ops.concatenate(
        [
            ops.log_softmax(log_weights + weights, axis=-1),
            locations + shift + moves,
            log_scales + ops.clip(widths, -4.0, 4.0),
        ],
        axis=-1,
    )


def build_network(settings: NetworkSettings) -> Any:
    """Return the untrained network.

    Inputs, for n steps of s = ``step_frames`` frames: ``summary`` (batch, n, summary), of the step
    before each; ``residual`` (batch, look_back + n * s, 2) after asinh, the channel's own and the
    other's, delayed likewise; ``side`` (batch, n * s, side); ``base`` (batch, n * s, 3 M);
    ``state`` (batch, layers, 2, units). Outputs: mixture (batch, n * s, 3 M) and the state after n
    steps.
    """
    s, mixtures = settings, Stacking.components
    size = features.summary_size(s.experts, s.step_frames)
    summary = keras.Input((None, size), name="summary")
    residual = keras.Input((None, 2), name="residual")
    side = keras.Input((None, features.side_size(s.experts)), name="side")
    base = keras.Input((None, 3 * mixtures), name="base")
    state = keras.Input((s.layers, 2, s.units), name="state")

    # cuDNN supports an LSTM with tanh and sigmoid only; LeakyReLU follows in the head.
    sequence, states = summary, []
    for i in range(s.layers):
        cell = keras.layers.LSTM(
            s.units, return_sequences=True, return_state=True, name=f"lstm_{i}"
        )
        sequence, h, c = cell(sequence, initial_state=[state[:, i, 0], state[:, i, 1]])
        states.append(ops.stack([h, c], axis=1))
    context = keras.layers.UpSampling1D(s.step_frames, name="upsample")(
        keras.layers.Dense(s.head_units[0], name="context")(sequence)
    )
    x = context + keras.layers.Dense(s.head_units[0], use_bias=False, name="look_back")(
        Windows(s.look_back, name="windows")(residual)
    )
    x = x + keras.layers.Dense(s.head_units[0], use_bias=False, name="side_features")(side)
    x = keras.layers.LeakyReLU(s.negative_slope, name="activation_0")(x)
    for i, units in enumerate(s.head_units[1:], start=1):
        x = keras.layers.Dense(units, name=f"head_{i}")(x)
        x = keras.layers.LeakyReLU(s.negative_slope, name=f"activation_{i}")(x)
    outputs = s.experts + 1 + 3 * mixtures
    correction = keras.layers.Dense(
        outputs, kernel_initializer="zeros", bias_initializer="zeros", name="correction"
    )(x)
    mixture = corrected_mixture(correction, side, base, s.experts, mixtures)
    inputs = [summary, residual, side, base, state]
    return keras.Model(inputs, [mixture, ops.stack(states, axis=1)], name="songcast")


def code_length_bits(target: Any, mixture: Any) -> Any:
    """Return the loss: the code length of each sample in bits, (batch, n).

    ``target`` (batch, n, 2): the sample relative to the stacked mean, in units, and the width
    of one LSB in units. ``mixture`` (batch, n, 3 M): output of the network. The tails beyond the
    int16 range and the uniform share do not affect learning and are left out.
    """
    log_weights, locations, log_scales = ops.split(mixture, 3, axis=-1)
    log_scales = ops.clip(log_scales, -9.0, 9.0)
    inverse = ops.exp(-log_scales)
    distance = (target[..., :1] - locations) * inverse
    half = 0.5 * target[..., 1:] * inverse
    # log(sigmoid(a) - sigmoid(b)) with a - b = 2 half, without cancellation in the tails
    log_mass = (
        ops.log(-ops.expm1(-ops.minimum(2.0 * half, 50.0)))
        - ops.softplus(-(distance + half))
        - ops.softplus(distance - half)
    )
    return -ops.logsumexp(log_weights + log_mass, axis=-1) / math.log(2.0)


def network_weights(network: Any) -> dict[str, NDArray[np.float32]]:
    """Return a network's weights by name, as ``NetworkSettings.shapes`` lists them."""
    return {w.path: np.array(w, np.float32) for w in network.weights}


def network_of(settings: NetworkSettings, weights: Mapping[str, NDArray[np.float32]]) -> Any:
    """Return the Keras network with these weights."""
    network = build_network(settings)
    for variable in network.weights:
        variable.assign(weights[variable.path])
    return network

"""The continuation network: predicts the next excitation of the lattice filters.

It has three tiers. A slow LSTM steps once in ``SLOW`` frames; its inputs are the levels of the last
step, of the other row, and of the retrieved passage now and a little later. A fast LSTM steps once
in ``FAST`` frames. A head with LeakyReLU gives for every sample a mixture of logistics around a
share of the retrieved excitation. Tiers after Mehri et al., "SampleRNN", 2017; excitation
instead of samples after Valin & Skoglund, "LPCNet", 2019; mixture after Salimans et al.,
"PixelCNN++", 2017. Channels are rows of the batch. Written on ``keras.ops``.
"""

import math
from typing import Any

from songcast.continuation.features import FAST, FAST_FEATURES, SLOW, SLOW_FEATURES
from songcast.continuation.settings import MAX_LOG_SCALE, MIN_LOG_SCALE, NetworkSettings
from songcast.forecasting.keras_backend import import_keras

keras = import_keras()
ops = keras.ops
Layer: Any = keras.layers.Layer
Initializer: Any = keras.initializers.Initializer

PACKAGE = "songcast"
STEPS_RATIO = SLOW // FAST


@keras.saving.register_keras_serializable(PACKAGE)
class PickFrames(Layer):
    """(batch, n, c) and (batch, picked) -> (batch, picked * FAST, c): a row for every sample."""

    def call(self, context: Any, picked: Any) -> Any:
        """Gather the picked frames and repeat each for its samples."""
        rows = ops.take_along_axis(context, ops.expand_dims(ops.cast(picked, "int32"), -1), axis=1)
        return ops.repeat(rows, FAST, axis=1)

    def compute_output_shape(self, context_shape: Any, picked_shape: Any) -> tuple[int | None, ...]:
        """Shape of the output; Keras cannot infer it when the number of frames is None."""
        frames = None if picked_shape[1] is None else picked_shape[1] * FAST
        return context_shape[0], frames, context_shape[2]


@keras.saving.register_keras_serializable(PACKAGE)
class Stretch(Layer):
    """(batch, n, c) -> (batch, n * STEPS_RATIO, c): repeats every slow step for its fast steps."""

    def call(self, x: Any) -> Any:
        """Repeat each row."""
        return ops.repeat(x, STEPS_RATIO, axis=1)


@keras.saving.register_keras_serializable(PACKAGE)
class ExcitationMixture(Layer):
    """Converts the output of the head and the retrieved excitation to a mixture.

    Inputs (batch, n, 3 M + 1) and (batch, n, 1); output (batch, n, 3 M + 1): log weights
    (normalised), locations, log scales, and the share of the passage in every location.
    """

    def __init__(self, mixtures: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mixtures = mixtures

    def call(self, outputs: Any, passage: Any) -> Any:
        """Return the mixture."""
        m = self.mixtures
        weights, shifts, widths, logit = ops.split(outputs, [m, 2 * m, 3 * m], axis=-1)
        share = ops.sigmoid(logit - 2.0)
        return ops.concatenate(
            [
                ops.log_softmax(weights, axis=-1),
                shifts + share * passage,
                ops.clip(widths, MIN_LOG_SCALE, MAX_LOG_SCALE),
                share,
            ],
            axis=-1,
        )

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "mixtures": self.mixtures}


def build_network(settings: NetworkSettings) -> Any:
    """Return the untrained network.

    Inputs: ``slow`` (batch, n, SLOW_FEATURES), ``fast`` (batch, n * SLOW / FAST, FAST_FEATURES),
    ``picked`` (batch, p): the fast steps to predict; ``sight`` (batch, p * FAST, sight)
    and ``passage`` (batch, p * FAST, 1) for their samples. Output (batch, p * FAST, 3 M + 1).
    """
    s = settings
    slow = keras.Input((None, SLOW_FEATURES), name="slow")
    fast = keras.Input((None, FAST_FEATURES), name="fast")
    picked = keras.Input((None,), dtype="int32", name="picked")
    sight = keras.Input((None, s.sight), name="sight")
    passage = keras.Input((None, 1), name="passage")

    # cuDNN serves an LSTM of tanh and sigmoid; LeakyReLU comes after.
    rhythm = keras.layers.LSTM(s.slow_units, return_sequences=True, name="slow_lstm")(slow)
    rhythm = _leaky(s, "rhythm")(keras.layers.Dense(s.fast_units, name="slow_out")(rhythm))
    fast_inputs = keras.layers.Concatenate(name="heard")([fast, Stretch(name="stretch")(rhythm)])
    sound = keras.layers.LSTM(s.fast_units, return_sequences=True, name="fast_lstm")(fast_inputs)
    # The levels also bypass the LSTM.
    sound = keras.layers.Concatenate(name="sound")([sound, fast_inputs])
    context = keras.layers.Dense(s.head_units[0], name="context")(sound)
    x = PickFrames(name="pick")(context, picked)
    x = x + keras.layers.Dense(s.head_units[0], use_bias=False, name="look_back")(sight)
    x = _leaky(s, "head_0")(x)
    x = _leaky(s, "head_1")(keras.layers.Dense(s.head_units[1], name="hidden")(x))
    found = keras.layers.Dense(
        3 * s.mixtures + 1,
        kernel_initializer="zeros",
        bias_initializer=_Spread(s.mixtures),
        name="answer",
    )(x)
    mixture = ExcitationMixture(s.mixtures, name="mixture")(found, passage)
    return keras.Model([slow, fast, picked, sight, passage], mixture, name="continuation")


def code_length_bits(target: Any, mixture: Any) -> Any:
    """Return -log2 of the density at ``target`` (batch, n, 1): (batch, n)."""
    m = (mixture.shape[-1] - 1) // 3
    log_weights, locations, log_scales, _ = ops.split(mixture, [m, 2 * m, 3 * m], axis=-1)
    z = ops.abs(target - locations) * ops.exp(-log_scales)
    log_density = -z - 2.0 * ops.softplus(-z) - log_scales
    return -ops.logsumexp(log_weights + log_density, axis=-1) / math.log(2.0)


@keras.saving.register_keras_serializable(PACKAGE)
class _Spread(Initializer):
    """Initial biases: logistics of different widths, together at unit level."""

    def __init__(self, mixtures: int) -> None:
        self.mixtures = mixtures

    def __call__(self, shape: Any, dtype: Any = None) -> Any:  # noqa: ARG002
        widths = [
            math.log(0.55) + 0.7 * (i - (self.mixtures - 1) / 2) for i in range(self.mixtures)
        ]
        return ops.convert_to_tensor([*[0.0] * (2 * self.mixtures), *widths, 0.0], dtype=dtype)

    def get_config(self) -> dict[str, Any]:
        return {"mixtures": self.mixtures}


def _leaky(settings: NetworkSettings, name: str) -> Any:
    return keras.layers.LeakyReLU(settings.negative_slope, name=name)

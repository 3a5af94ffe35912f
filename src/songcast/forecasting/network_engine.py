"""Runs a trained network from its plain weights, without Keras.

The result equals that of the Keras network within single precision, and does not depend on the
size of the blocks, bit for bit.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from songcast.forecasting import features
from songcast.forecasting.features import Features
from songcast.forecasting.network_kernels import INPUTS, OUTPUTS, ROWS, Matrices, correct
from songcast.forecasting.stacking import Stacking

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Weights = Mapping[str, F32]


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """Shape of the network.

    ``experts``: the number of experts in its input. ``look_back``: past residuals that the head
    sees. ``step_frames``: frames per step of the LSTM. ``units``, ``layers``: of the LSTM.
    ``head_units``: of the head's layers. ``negative_slope``: of LeakyReLU; 0 makes it ReLU.
    """

    experts: int
    look_back: int = 8
    step_frames: int = 64
    units: int = 32
    layers: int = 1
    head_units: tuple[int, ...] = (32, 24)
    negative_slope: float = 0.1

    @property
    def head_names(self) -> list[str]:
        """The names of the head's layers after the first one."""
        return [f"head_{n}" for n in range(1, len(self.head_units))] + ["correction"]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each weight, by its name in the Keras network and in a bundle."""
        shapes: dict[str, tuple[int, ...]] = {}
        size = features.summary_size(self.experts, self.step_frames)
        for n in range(self.layers):
            shapes[f"lstm_{n}/lstm_cell/kernel"] = (size, 4 * self.units)
            shapes[f"lstm_{n}/lstm_cell/recurrent_kernel"] = (self.units, 4 * self.units)
            shapes[f"lstm_{n}/lstm_cell/bias"] = (4 * self.units,)
            size = self.units
        first = self.head_units[0]
        shapes |= {"context/kernel": (size, first), "context/bias": (first,)}
        shapes["look_back/kernel"] = (2 * self.look_back, first)
        shapes["side_features/kernel"] = (features.side_size(self.experts), first)
        outputs = self.experts + 1 + 3 * Stacking.components
        for name, size, units in zip(
            self.head_names, self.head_units, (*self.head_units[1:], outputs), strict=True
        ):
            shapes |= {f"{name}/kernel": (size, units), f"{name}/bias": (units,)}
        return shapes


def packed_network(settings: NetworkSettings, weights: Weights) -> tuple[Matrices, F32, Matrices]:
    """Return the matrices of ``network_kernels.correct``: LSTM layers, context and head."""
    cells = [f"lstm_{n}/lstm_cell" for n in range(settings.layers)]
    parts = ("kernel", "recurrent_kernel", "bias")
    layers = [packed(*(weights[f"{cell}/{part}"] for part in parts)) for cell in cells]
    context = packed(weights["context/kernel"], weights["context/bias"])
    head = [packed(weights["look_back/kernel"], weights["side_features/kernel"])]
    for name in settings.head_names:
        kernel, bias = weights[f"{name}/kernel"], weights[f"{name}/bias"]
        head.append(packed_layer(len(head[-1]), kernel, bias))
    return tuple(layers), context, tuple(head)


def packed(*parts: F32) -> F32:
    """Return a matrix of ``network_kernels`` from kernels (inputs, outputs) and a bias (outputs,).

    Their inputs follow each other.
    """
    matrix = np.concatenate([np.atleast_2d(part) for part in parts])
    inputs, outputs = matrix.shape
    shape = -(-outputs // OUTPUTS) * OUTPUTS, -(-inputs // INPUTS) * INPUTS
    result = np.zeros(shape, np.float32)
    result[:outputs, :inputs] = matrix.T
    return result


def packed_layer(inputs: int, kernel: F32, bias: F32) -> F32:
    """Return the matrix of a layer behind a matrix with ``inputs`` outputs, zeros included.

    The bias follows all outputs of the matrix before, with its rows of zeros.
    """
    gap = np.zeros((inputs - len(kernel), kernel.shape[1]), np.float32)
    return packed(kernel, gap, bias)


class NetworkSession:
    """A network at work on one song; ``matrices`` as ``packed_network`` returns them."""

    def __init__(
        self, settings: NetworkSettings, matrices: tuple[Matrices, F32, Matrices], channels: int
    ) -> None:
        self._settings, self._matrices = settings, matrices
        self._position = 0
        hidden = np.zeros((settings.layers, ROWS, settings.units), np.float32)
        context = np.zeros((ROWS, len(matrices[1])), np.float32)
        size = features.summary_size(settings.experts, settings.step_frames)
        pending = np.zeros((ROWS, size), np.float32)
        self._state = hidden, np.zeros_like(hidden), context, pending
        self._residual = np.zeros((channels, settings.look_back, 2), np.float32)

    def correct(self, block: Features, weights: F64, locations: F64, scales: F64) -> None:
        """Replace the stacking's mixture of the next block by the corrected one, in place.

        ``weights``, ``locations``, ``scales``: (channels, frames, M) float64, contiguous;
        locations and scales in LSB.
        """
        settings = self._settings
        own = block.squashed
        other = own[::-1] if len(own) == 2 else np.zeros_like(own)
        residual = np.concatenate([self._residual, np.stack([own, other], axis=-1)], axis=1)
        self._residual = residual[:, residual.shape[1] - settings.look_back :]
        steps = settings.step_frames, self._position
        inputs = block.summary, residual, block.side, block.unit
        mixture = weights, locations, scales
        correct(*self._matrices, settings.negative_slope, *steps, *self._state, *inputs, *mixture)
        self._position = (self._position + block.unit.shape[1]) % settings.step_frames

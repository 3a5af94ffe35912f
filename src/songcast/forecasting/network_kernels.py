"""The compiled network: an LSTM per step and a head per sample, in single precision.

All matrices are (outputs, inputs), filled with zeros up to the multiples that the loops need; a
column of an input that is always 1 holds the bias. Two rows are processed at once, one per channel,
because both use the same weights.
"""

import math

import numpy as np
from numpy.typing import NDArray

from songcast.forecasting.compiled import compiled, inlined

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Matrices = tuple[F32, ...]

# Multiples of the numbers of inputs and outputs of a matrix.
INPUTS, OUTPUTS = 16, 4
ROWS = 2
MAX_WIDENING = 4.0


@inlined
def dense(matrix: F32, x: F32, out: F32) -> None:
    """Multiply ``x`` (2, inputs) by ``matrix`` (outputs, inputs) into ``out`` (2, outputs)."""
    outputs, inputs = matrix.shape
    a, b = x[0], x[1]
    for j in range(0, outputs, 4):
        m0, m1, m2, m3 = matrix[j], matrix[j + 1], matrix[j + 2], matrix[j + 3]
        a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = np.float32(0.0)
        for i in range(inputs):
            p, q = a[i], b[i]
            a0 += p * m0[i]
            a1 += p * m1[i]
            a2 += p * m2[i]
            a3 += p * m3[i]
            b0 += q * m0[i]
            b1 += q * m1[i]
            b2 += q * m2[i]
            b3 += q * m3[i]
        out[0, j], out[0, j + 1], out[0, j + 2], out[0, j + 3] = a0, a1, a2, a3
        out[1, j], out[1, j + 1], out[1, j + 2], out[1, j + 3] = b0, b1, b2, b3


@inlined
def sigmoid(x: float) -> float:
    """Return the logistic function of ``x``."""
    return 1.0 / (1.0 + math.exp(-x))


@inlined
def lstm_step(matrix: F32, x: F32, gates: F32, hidden: F32, cell: F32) -> None:
    """Process one step of an LSTM: gates i, f, c, o in the order of Keras.

    ``x`` (2, inputs): the input, then ``hidden`` (2, units) of the step before, then 1. State:
    ``hidden`` and ``cell`` (2, units).
    """
    units = hidden.shape[1]
    dense(matrix, x, gates)
    for row in range(ROWS):
        for j in range(units):
            keep = sigmoid(gates[row, units + j]) * cell[row, j]
            new = sigmoid(gates[row, j]) * math.tanh(gates[row, 2 * units + j])
            cell[row, j] = keep + new
            hidden[row, j] = sigmoid(gates[row, 3 * units + j]) * math.tanh(cell[row, j])


@compiled
def correct(
    layers: Matrices,
    context_matrix: F32,
    head: Matrices,
    slope: float,
    step_frames: int,
    position: int,
    hidden: F32,
    cell: F32,
    context: F32,
    pending: F32,
    summary: F32,
    residual: F32,
    side: F32,
    unit: F32,
    weights: F64,
    locations: F64,
    scales: F64,
) -> None:
    """Correct the mixture of one block of a song.

    ``layers``, ``context_matrix``, ``head``: matrices of the LSTM layers, of the context and of
    the head. ``position``: frames since the last step began. State: ``hidden`` and ``cell``
    (layers, 2, units), ``context`` (2, outputs) of the present step and ``pending`` (2, summary)
    of the last complete step. Features: ``summary`` (channels, steps, summary), ``residual``
    (channels, look_back + frames, 2) after asinh, the channel's own and the other's, ``side``
    (channels, frames, side), ``unit`` (channels, frames). ``weights``, ``locations``, ``scales``
    (channels, frames, M) are the stacking's mixture and are replaced by the corrected one.
    """
    channels, frames = unit.shape
    mixtures, experts = weights.shape[2], side.shape[2] - 4
    window = 2 * (residual.shape[1] - frames)
    units, step = hidden.shape[2], 0
    widest = context_matrix.shape[1]
    for matrix in layers:
        widest = max(widest, max(matrix.shape[0], matrix.shape[1]))
    for matrix in head:
        widest = max(widest, max(matrix.shape[0], matrix.shape[1]))
    gates = np.empty((ROWS, widest), np.float32)
    x = np.zeros((len(layers), ROWS, widest), np.float32)
    y = np.zeros((len(head), ROWS, widest), np.float32)
    out = np.zeros((ROWS, widest), np.float32)
    for n in range(1, len(head)):
        for row in range(ROWS):
            y[n, row, head[n - 1].shape[0]] = 1.0
    flat = residual.reshape(channels, -1)
    for t in range(frames):
        place = (position + t) % step_frames
        if place == 0:
            below = pending
            for n in range(len(layers)):
                size = below.shape[1]
                for row in range(ROWS):
                    for i in range(size):
                        x[n, row, i] = below[row, i]
                    for i in range(units):
                        x[n, row, size + i] = hidden[n, row, i]
                    x[n, row, size + units] = 1.0
                lstm_step(layers[n], x[n], gates, hidden[n], cell[n])
                below = hidden[n]
            for row in range(ROWS):
                for i in range(units):
                    out[row, i] = below[row, i]
                out[row, units] = 1.0
                for i in range(units + 1, widest):
                    out[row, i] = 0.0
            dense(context_matrix, out, context)
        for c in range(channels):
            for i in range(window):
                y[0, c, i] = flat[c, 2 * t + i]
            for i in range(side.shape[2]):
                y[0, c, window + i] = side[c, t, i]
        for n in range(len(head)):
            dense(head[n], y[n], out)
            if n + 1 == len(head):
                break
            size = head[n].shape[0]
            for row in range(ROWS):
                for i in range(size):
                    value = out[row, i]
                    if n == 0:
                        value += context[row, i]
                    y[n + 1, row, i] = value if value > 0.0 else slope * value
        for c in range(channels):
            shift = out[c, experts]
            for k in range(experts):
                shift += out[c, k] * side[c, t, k]
            first = experts + 1
            top = out[c, first]
            for j in range(mixtures):
                top = max(top, out[c, first + j])
            total = 0.0
            for j in range(mixtures):
                weights[c, t, j] *= math.exp(out[c, first + j] - top)
                total += weights[c, t, j]
            for j in range(mixtures):
                weights[c, t, j] /= total
                locations[c, t, j] += (shift + out[c, first + mixtures + j]) * unit[c, t]
                wider = out[c, first + 2 * mixtures + j]
                scales[c, t, j] *= math.exp(min(max(wider, -MAX_WIDENING), MAX_WIDENING))
        if place == step_frames - 1:
            for c in range(channels):
                for i in range(pending.shape[1]):
                    pending[c, i] = summary[c, step, i]
            step += 1

"""The compiled loop of the notebook's network."""

import numpy as np
from numpy.typing import NDArray

from songcast.forecasting.compiled import compiled
from songcast.forecasting.network_kernels import ROWS, dense, lstm_step

F32 = NDArray[np.float32]


@compiled
def predict(lstm: F32, layers: tuple[F32, ...], slope: float, signal: F32, out: F32) -> None:
    """Predict each sample from the ``look_back`` samples before it, in single precision.

    ``lstm`` and ``layers``: matrices as in ``network_kernels``, of which one row is used.
    ``signal`` (look_back + frames,) in [-1, 1), ``out`` (frames,) likewise. An activation with
    the negative ``slope`` follows each layer.
    """
    look_back = len(signal) - len(out)
    units = lstm.shape[0] // 4
    x = np.zeros((ROWS, lstm.shape[1]), np.float32)
    gates = np.zeros((ROWS, lstm.shape[0]), np.float32)
    hidden, cell = np.zeros((2, ROWS, units), np.float32)
    y = np.zeros((len(layers) + 1, ROWS, lstm.shape[1]), np.float32)
    for t in range(len(out)):
        hidden[:] = 0.0
        cell[:] = 0.0
        for k in range(look_back):
            x[0, 0] = signal[t + k]
            for i in range(units):
                x[0, 1 + i] = hidden[0, i]
            x[0, 1 + units] = 1.0
            lstm_step(lstm, x, gates, hidden, cell)
        for i in range(units):
            value = hidden[0, i]
            y[0, 0, i] = value if value > 0.0 else slope * value
        size = units
        for n in range(len(layers)):
            y[n, 0, size] = 1.0
            dense(layers[n], y[n], y[n + 1])
            size = layers[n].shape[0]
            for i in range(size):
                value = y[n + 1, 0, i]
                y[n + 1, 0, i] = value if value > 0.0 else slope * value
        out[t] = y[len(layers), 0, 0]

"""The recipe of the notebook that this project grew from, corrected and kept as a baseline.

Two small LSTMs, one per channel, predict each sample from the three samples before it.
Corrections: the LSTM recurs over the window (the notebook reshaped it to one time step), windows
never cross a song or a split, one scale serves all songs, and held-out passages measure it. The
activation follows every layer, including the last one, as in the notebook: with ReLU no
prediction can be negative, so half of every wave is lost.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from songcast.bundle import read_arrays, read_manifest, write_bundle
from songcast.data.corpus import drop_pages
from songcast.forecasting.distribution import LogisticMixture
from songcast.forecasting.forecaster import Forecaster, ForecastSession
from songcast.forecasting.stacking import Stacking

F32 = NDArray[np.float32]
Activation = Literal["relu", "leaky_relu"]
FULL_SCALE = 32768.0
CHANNELS = 2
BATCH = 100
# Windows that the trained networks process at once.
TILE = 256
LSTM_UNITS = 100
DENSE_UNITS = (50, 25, 12, 1)
SLOPES = {"relu": 0.0, "leaky_relu": 0.3}


class Notebook(Forecaster):
    """The two LSTMs, one per channel.

    ``weights``: float32 arrays by name, of ``build_network``. ``look_back``: past samples in a
    window. ``activation``: of all layers.
    """

    name = "notebook"
    # Three samples determine the prediction; the slowest running width averages 512 frames.
    warm_up_frames = 16384

    def __init__(self, weights: Mapping[str, F32], look_back: int, activation: Activation) -> None:
        self.weights = dict(weights)
        self.look_back = look_back
        self.activation = activation

    def session(self, channels: int) -> ForecastSession:
        """Return a session for one song; the left channel's LSTM predicts a mono song."""
        return _NotebookSession(self, channels)

    def predict(self, channel: int, windows: F32, frame: int = 0) -> F32:
        """Return the sample after each of ``windows`` (frames, look_back), float32 in [-1, 1).

        ``frame``: of the song, that the first window predicts. Frame t is always row t % TILE of a
        matrix of TILE rows: BLAS may round a product otherwise in a matrix of another shape, and
        results must not depend on the block size.
        """
        name = ("left", "right")[channel]
        out = np.empty(len(windows), np.float32)
        tile = np.zeros((TILE, windows.shape[1]), np.float32)
        at = 0
        while at < len(windows):
            row = (frame + at) % TILE
            count = min(TILE - row, len(windows) - at)
            tile[row : row + count] = windows[at : at + count]
            out[at : at + count] = self._network(name, tile)[row : row + count]
            at += count
        return out

    def _network(self, name: str, windows: F32) -> F32:
        """Return the network's output for ``windows`` (TILE, look_back): (TILE,)."""
        weights, slope = self.weights, np.float32(SLOPES[self.activation])

        def activate(x: F32) -> F32:
            result: F32 = np.maximum(x, slope * x)
            return result

        kernel, recurrent, bias = (
            weights[f"{name}_lstm/lstm_cell/{part}"]
            for part in ("kernel", "recurrent_kernel", "bias")
        )
        hidden = cell = np.zeros((TILE, LSTM_UNITS), np.float32)
        for step in range(windows.shape[1]):
            gates = windows[:, step : step + 1] * kernel + bias
            if step:  # the first hidden state is zero
                gates += hidden @ recurrent
            enter, keep, new, leave = np.split(gates, 4, axis=1)
            cell = _sigmoid(keep) * cell + _sigmoid(enter) * np.tanh(new)
            hidden = _sigmoid(leave) * np.tanh(cell)
        x = activate(hidden)
        for number in range(1, len(DENSE_UNITS) + 1):
            layer = f"{name}_dense_{number}"
            x = activate(x @ weights[f"{layer}/kernel"] + weights[f"{layer}/bias"])
        return x[:, 0]

    def save(self, folder: Path, details: dict[str, Any]) -> None:
        """Write the bundle; ``details`` are added to its bundle.json."""
        own = {
            "look_back": self.look_back,
            "activation": self.activation,
            "scales": {"full_scale": FULL_SCALE},
        }
        write_bundle(folder, kind=self.name, arrays=self.weights, details={**details, **own})

    @classmethod
    def load(cls, folder: Path) -> "Notebook":
        """Read a bundle written by ``save``. Raises ``BundleError``."""
        manifest, weights = read_manifest(folder), read_arrays(folder)
        return cls(weights, int(manifest["look_back"]), manifest["activation"])


def build_network(look_back: int, activation: Activation) -> Any:
    """Return the untrained Keras model: LSTM(100) -> 50 -> 25 -> 12 -> 1 for each channel.

    The loss is the sum over both channels, and yet the halves are trained independently: they
    share no weight, and Adam scales each weight separately.
    """
    import keras

    inputs, outputs, slope = [], [], SLOPES[activation]
    for channel in ("left", "right"):
        window = keras.Input((look_back, 1), name=channel)
        # The activation follows the LSTM: cuDNN supports only tanh inside.
        x = keras.layers.LSTM(LSTM_UNITS, name=f"{channel}_lstm")(window)
        x = keras.layers.ReLU(negative_slope=slope, name=f"{channel}_activation_0")(x)
        for i, units in enumerate(DENSE_UNITS, start=1):
            x = keras.layers.Dense(units, name=f"{channel}_dense_{i}")(x)
            x = keras.layers.ReLU(negative_slope=slope, name=f"{channel}_activation_{i}")(x)
        inputs.append(window)
        outputs.append(x)
    prediction = keras.layers.Concatenate(name="prediction")(outputs)
    return keras.Model(inputs, prediction, name="notebook")


def fit_notebook(
    passages: Sequence[NDArray[np.int16]],
    *,
    look_back: int,
    activation: Activation,
    epochs: int,
    windows_per_epoch: int,
    seed: int,
    on_epoch: Callable[[int, float], None] | None = None,
) -> Notebook:
    """Train on random windows of (frames, channels) int16 passages: Adam, MSE, batches of 100.

    A mono passage trains both halves. Each epoch draws ``windows_per_epoch`` windows, uniform
    over all frames; none crosses a passage. ``on_epoch`` receives the epoch, from 0, and its loss.
    """
    import keras

    keras.utils.set_random_seed(seed)
    network = build_network(look_back, activation)
    # The forward pass is small: many steps per call reduce the overhead of Python.
    network.compile(optimizer="adam", loss="mse", steps_per_execution=50)
    for epoch in range(epochs):
        rng = np.random.default_rng([seed, epoch])
        windows = draw_windows(passages, look_back + 1, windows_per_epoch, rng)
        inputs = [windows[:, :-1, c : c + 1] for c in range(CHANNELS)]
        log = network.fit(
            inputs,
            windows[:, -1, :],
            batch_size=BATCH,
            initial_epoch=epoch,
            epochs=epoch + 1,
            shuffle=False,
            verbose=0,
        )
        if on_epoch:
            on_epoch(epoch, float(log.history["loss"][0]))
    weights = {w.path: np.array(w, np.float32) for w in network.weights}
    return Notebook(weights, look_back, activation)


def draw_windows(
    passages: Sequence[NDArray[np.int16]], frames: int, count: int, rng: np.random.Generator
) -> F32:
    """Return (count, frames, 2) float32 windows in [-1, 1), uniform over all positions."""
    room = np.array([max(len(p) - frames + 1, 0) for p in passages])
    ends = np.cumsum(room)
    picks = rng.integers(0, ends[-1], count)
    owner = np.searchsorted(ends, picks, side="right")
    start = picks - (ends[owner] - room[owner])
    windows = np.empty((count, frames, CHANNELS), np.float32)
    for i in np.unique(owner).tolist():  # a shorter passage has no windows
        mine, passage = np.flatnonzero(owner == i), passages[i]
        for part in np.array_split(mine, len(mine) // 200 + 1):
            # (positions, channels, frames) -> (windows, frames, channels); mono fills both
            view = sliding_window_view(passage, frames, axis=0)[start[part]]
            windows[part] = view.transpose(0, 2, 1)
            drop_pages(passage)  # each window would leave 64 kB in memory
    return windows / np.float32(FULL_SCALE)


class _NotebookSession(ForecastSession):
    def __init__(self, model: Notebook, channels: int) -> None:
        self._model = model
        self._past = np.zeros((channels, model.look_back), np.float32)
        self._frame = 0
        self._stacking = Stacking(channels, 1)

    def forecast_block(self, samples: NDArray[np.int16]) -> LogisticMixture:
        scaled = samples.T.astype(np.float32) / np.float32(FULL_SCALE)
        signal = np.concatenate([self._past, scaled], axis=1)
        self._past = signal[:, len(samples) :]
        means = np.empty((*samples.shape, 1), np.float32)
        for channel in range(samples.shape[1]):
            windows = sliding_window_view(signal[channel], self._model.look_back)[:-1]
            means[:, channel, 0] = self._model.predict(channel, windows, self._frame)
        self._frame += len(samples)
        return self._stacking.combine(samples, means * np.float32(FULL_SCALE)).mixture


def _sigmoid(x: F32) -> F32:
    """Return the logistic function; NumPy computes tanh of many numbers at once."""
    half = np.float32(0.5)
    result: F32 = half + half * np.tanh(half * x)
    return result

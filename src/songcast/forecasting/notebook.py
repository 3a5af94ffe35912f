"""The recipe of the notebook that this project grew from, corrected and kept as a baseline.

Two small LSTMs, one per channel, predict each sample from the three samples before it.
Corrections: the LSTM recurs over the window (the notebook reshaped it to one time step), windows
never cross a song or a split, one scale serves all songs, and held-out passages measure it. The
activation follows every layer, including the last one, as in the notebook: with ReLU no
prediction can be negative, so half of every wave is lost.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from songcast.bundle import NETWORK, read_manifest, read_network, write_bundle
from songcast.forecasting.distribution import BLOCK_FRAMES, LogisticMixture
from songcast.forecasting.forecaster import Forecaster, ForecastSession
from songcast.forecasting.stacking import Stacking

F32 = NDArray[np.float32]
Activation = Literal["relu", "leaky_relu"]
FULL_SCALE = 32768.0
CHANNELS = 2
BATCH = 100
LSTM_UNITS = 100
DENSE_UNITS = (50, 25, 12, 1)
NEGATIVE_SLOPE = 0.3


class Notebook(Forecaster):
    """The two LSTMs of one ``network``: inputs left, right (batch, look_back, 1)."""

    name = "notebook"
    # Three samples determine the prediction; the slowest running width averages 512 frames.
    warm_up_frames = 16384

    def __init__(self, network: Any) -> None:
        self._network = network

    @property
    def look_back(self) -> int:
        """The number of past samples in a window."""
        return int(self._network.inputs[0].shape[1])

    def session(self, channels: int, sample_rate_hz: int) -> ForecastSession:  # noqa: ARG002
        """Return a session for one song; the left channel's LSTM predicts a mono song."""
        return _NotebookSession(self._network, self.look_back, channels)

    def save(self, folder: Path, details: dict[str, Any]) -> None:
        """Write the bundle; ``details`` are added to its bundle.json."""
        details = {**details, "look_back": self.look_back, "scales": {"full_scale": FULL_SCALE}}
        write_bundle(folder, kind=self.name, network=self._network, details=details)

    @classmethod
    def load(cls, folder: Path) -> "Notebook":
        """Read a bundle written by ``save``. Raises ``BundleError``."""
        read_manifest(folder)
        return cls(read_network(folder / NETWORK))


def build_network(look_back: int, activation: Activation) -> Any:
    """Return the untrained Keras model: LSTM(100) -> 50 -> 25 -> 12 -> 1 for each channel.

    The loss is the sum over both channels, and yet the halves are trained independently: they
    share no weight, and Adam scales each weight separately.
    """
    import keras

    inputs, outputs = [], []
    for channel in ("left", "right"):
        window = keras.Input((look_back, 1), name=channel)
        # The activation follows the LSTM: cuDNN supports only tanh inside.
        x = keras.layers.LSTM(LSTM_UNITS, name=f"{channel}_lstm")(window)
        x = _activation(activation, f"{channel}_activation_0")(x)
        for i, units in enumerate(DENSE_UNITS, start=1):
            x = keras.layers.Dense(units, name=f"{channel}_dense_{i}")(x)
            x = _activation(activation, f"{channel}_activation_{i}")(x)
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
    return Notebook(network)


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
        mine = np.flatnonzero(owner == i)
        # (positions, channels, frames) -> (windows, frames, channels); mono fills both
        view = sliding_window_view(passages[i], frames, axis=0)[start[mine]]
        windows[mine] = view.transpose(0, 2, 1)
    return windows / np.float32(FULL_SCALE)


class _NotebookSession(ForecastSession):
    def __init__(self, network: Any, look_back: int, channels: int) -> None:
        self._network = network
        self._channels = channels
        self._past = np.zeros((look_back, channels), np.int16)
        # Matrix kernels may round differently for other shapes or row positions. The network
        # sees zero-padded blocks of one shape, aligned to the first frame: a sample always has the
        # same position, so it gets the same bits however the song is divided.
        self._block = np.zeros((BLOCK_FRAMES, look_back, CHANNELS), np.float32)
        self._filled = 0
        self._stacking = Stacking(channels, 1)

    def forecast_block(self, samples: NDArray[np.int16]) -> LogisticMixture:
        signal = np.concatenate([self._past, samples])
        look_back = len(self._past)
        self._past = signal[len(signal) - look_back :]
        # (frames, channels, look_back) -> (frames, look_back, channels); mono fills both
        view = sliding_window_view(signal, look_back, axis=0).transpose(0, 2, 1)
        windows = np.empty((len(samples), look_back, CHANNELS), np.float32)
        windows[:] = view[: len(samples)] / FULL_SCALE
        means = np.concatenate(list(self._predict(windows)))
        means *= FULL_SCALE
        return self._stacking.combine(samples, means[:, : self._channels, None]).mixture

    def _predict(self, windows: F32) -> Iterator[F32]:
        """Yield the network's outputs for ``windows`` (frames, look_back, 2), in order."""
        start = 0
        while True:
            stop = min(start + BLOCK_FRAMES - self._filled, len(windows))
            first, self._filled = self._filled, self._filled + stop - start
            self._block[first : self._filled] = windows[start:stop]
            inputs = [self._block[:, :, c : c + 1] for c in range(CHANNELS)]
            yield np.asarray(self._network.predict_on_batch(inputs))[first : self._filled]
            if self._filled == BLOCK_FRAMES:
                self._block[:] = 0.0
                self._filled = 0
            start = stop
            if start == len(windows):
                return


def _activation(name: Activation, layer_name: str) -> Any:
    import keras

    if name == "relu":
        return keras.layers.ReLU(name=layer_name)
    return keras.layers.LeakyReLU(negative_slope=NEGATIVE_SLOPE, name=layer_name)

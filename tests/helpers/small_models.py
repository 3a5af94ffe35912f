"""Small songs and models, random but not trivial."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from songcast.audio.songs import Song
from songcast.forecasting.baselines import Cascade, Persistence
from songcast.forecasting.distribution import Distribution
from songcast.forecasting.filter_bank_settings import FilterBankSettings, LeastSquares, Lms
from songcast.forecasting.forecaster import Forecaster, ForecastSession
from songcast.forecasting.front_end import FrontEndKind, FrontEndSettings
from songcast.forecasting.lstm import LstmForecaster
from songcast.forecasting.network import build_network, network_weights
from songcast.forecasting.network_engine import NetworkSettings
from songcast.forecasting.notebook import Activation, Notebook
from songcast.forecasting.notebook import build_network as build_notebook
from songcast.forecasting.ridge import Ridge

RATE_HZ = 44100
# A quick bank with both kinds of stages and a chain of two.
BANK = FilterBankSettings(
    chains=(
        (
            LeastSquares(own_taps=8, other_taps=4, forgetting=0.998),
            Lms(taps=32, step=0.02),
        ),
        (Lms(taps=16, step=0.01),),
    )
)
NAMES = (
    "persistence",
    "ridge",
    "notebook",
    "cascade",
    "lstm-cascade",
    "lstm-ridge",
    "lstm-none",
)


def music(frames: int, channels: int = 2, seed: int = 0) -> NDArray[np.int16]:
    """Partials, a random walk and noise; channels are alike, not equal. (frames, channels)."""
    rng = np.random.default_rng(seed)
    t = np.arange(frames)[:, None] / RATE_HZ
    x = np.zeros((frames, channels))
    for _ in range(5):
        pan = rng.uniform(0.4, 1.0, channels)
        x += 1500.0 * pan * np.sin(2 * np.pi * rng.uniform(80, 3000) * t + rng.uniform(0, 6))
    x += np.cumsum(rng.normal(0, 20, (frames, 1)), axis=0) * 0.2
    return np.clip(np.rint(x + rng.normal(0, 60, x.shape)), -32768, 32767).astype(np.int16)


def song(samples: NDArray[np.int16], name: str = "music") -> Song:
    return Song(samples=samples, sample_rate_hz=RATE_HZ, name=name)


def ridge(look_back: int = 8) -> Ridge:
    return Ridge.fit([music(4000, 2, seed=5)], look_back, 1e-6)


def front_end(kind: FrontEndKind) -> FrontEndSettings:
    taps = ridge().taps if kind == "ridge" else None
    return FrontEndSettings(kind=kind, filter_bank=BANK, taps=taps)


def untrained(kind: FrontEndKind = "cascade", seed: int = 0) -> LstmForecaster:
    """An LSTM forecaster as training finds it: its correction is zero."""
    import keras

    keras.utils.set_random_seed(seed)
    end = front_end(kind)
    settings = NetworkSettings(
        experts=len(end.expert_names),
        look_back=8,
        step_frames=16,
        units=6,
        layers=2,
        head_units=(8, 6),
    )
    return LstmForecaster(network_weights(build_network(settings)), settings, end)


def randomised(
    kind: FrontEndKind = "cascade", seed: int = 0, spread: float = 0.2
) -> LstmForecaster:
    """An LSTM forecaster of which every weight is random, the last layer's too."""
    model = untrained(kind)
    rng = np.random.default_rng(seed)
    shapes = model.settings.shapes.items()
    weights = {name: rng.normal(0, spread, shape).astype(np.float32) for name, shape in shapes}
    return LstmForecaster(weights, model.settings, model.front_end)


def forecaster(name: str) -> Forecaster:
    """One of ``NAMES``."""
    if name == "persistence":
        return Persistence()
    if name == "ridge":
        return ridge()
    if name == "cascade":
        return Cascade()
    if name == "notebook":
        return notebook("leaky_relu")
    kinds: dict[str, FrontEndKind] = {
        "lstm-cascade": "cascade",
        "lstm-ridge": "ridge",
        "lstm-none": "none",
    }
    return randomised(kinds[name])


def notebook(activation: Activation) -> Notebook:
    """An untrained notebook."""
    import keras

    keras.utils.set_random_seed(0)
    network = build_notebook(3, activation)
    weights = {w.path: np.array(w, np.float32) for w in network.weights}
    return Notebook(weights, 3, activation)


# The code lengths of these values distinguish distributions.
PROBES = (-700, 0, 3, 1500)


def joined(blocks: Sequence[Distribution]) -> dict[str, NDArray[np.float64]]:
    """Return the means of successive blocks and the code lengths of ``PROBES``."""
    parts = {"mean": np.concatenate([block.mean for block in blocks])}
    for value in PROBES:
        bits = [block.bits(np.full(block.mean.shape, value, np.int16)) for block in blocks]
        parts[f"bits of {value}"] = np.concatenate(bits)
    return parts


def distributions(
    model: Forecaster, samples: NDArray[np.int16], cuts: Sequence[int] = ()
) -> dict[str, NDArray[np.float64]]:
    """Return the predictions of a new session for ``samples`` in blocks split at ``cuts``."""
    session: ForecastSession = model.session(samples.shape[1])
    return joined([session.forecast_block(piece) for piece in np.split(samples, sorted(cuts))])

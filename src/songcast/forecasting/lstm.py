"""The multi-song LSTM forecaster: a network that corrects the mixture of its front end.

The final distribution averages the network's mixture, the front end's own and the cascade's by
recent code length (``adaptation``), so that an unusual song costs little.
"""

from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from songcast.bundle import NETWORK, read_arrays, read_manifest, read_network, write_bundle
from songcast.errors import BundleError
from songcast.forecasting import features
from songcast.forecasting.adaptation import BiasStage, ModelAveraging
from songcast.forecasting.distribution import BLOCK_FRAMES, LogisticMixture
from songcast.forecasting.features import Features
from songcast.forecasting.forecaster import Forecaster, ForecastSession
from songcast.forecasting.front_end import FrontEndSettings
from songcast.forecasting.network import NetworkSettings
from songcast.forecasting.stacking import EncodedBlock, Stacking

F32 = NDArray[np.float32]


class LstmForecaster(Forecaster):
    """A trained ``network`` with the front end that it was trained on."""

    name = "lstm"

    def __init__(
        self, network: Any, settings: NetworkSettings, front_end: FrontEndSettings
    ) -> None:
        self.network = network
        self.settings = settings
        self.front_end = front_end
        self._networks: dict[int, Any] = {}

    def network_for(self, channels: int) -> Any:
        """Return the network for songs of ``channels`` channels, with the current weights.

        TensorFlow compiles a network again, with other rounding, when it meets a second batch
        size. The result for a song would depend on the songs before, so each number of channels
        has a copy.
        """
        import keras

        if channels not in self._networks:
            self._networks[channels] = keras.models.clone_model(self.network)
        self._networks[channels].set_weights(self.network.get_weights())
        return self._networks[channels]

    def session(self, channels: int, sample_rate_hz: int) -> "LstmSession":  # noqa: ARG002
        """Return a session for one song; features are relative, so any sample rate will do."""
        return LstmSession(self, channels)

    def save(self, folder: Path, details: dict[str, Any], history_csv: str = "") -> None:
        """Write the bundle; ``details`` are added to its bundle.json."""
        taps = {f"taps_{n}": t for n, t in (self.front_end.taps or {}).items()}
        write_bundle(
            folder,
            kind=self.name,
            network=self.network,
            arrays=taps,
            texts={"history.csv": history_csv},
            details={
                **details,
                "look_back": self.settings.look_back,
                "scales": {"min_unit_lsb": features.MIN_UNIT_LSB},
                "network": asdict(self.settings),
                "front_end": self.front_end.to_json(),
            },
        )

    @classmethod
    def load(cls, folder: Path) -> "LstmForecaster":
        """Read a bundle written by ``save``. Raises ``BundleError``."""
        manifest = read_manifest(folder)
        another = BundleError(
            f"{folder}: made by another version of songcast, whose features differ; "
            "use that version, or train again with `make run`"
        )
        try:
            shape = manifest["network"]
            settings = NetworkSettings(**{**shape, "head_units": tuple(shape["head_units"])})
        except (KeyError, TypeError):  # settings of another version
            raise another from None
        network = read_network(folder / NETWORK)
        arrays = read_arrays(folder) if manifest["front_end"]["kind"] == "ridge" else {}
        taps = {int(name.removeprefix("taps_")): array for name, array in arrays.items()}
        front_end = FrontEndSettings.from_json(manifest["front_end"], taps or None)
        summary = features.summary_size(settings.experts, settings.step_frames)
        widths = [summary, 2, features.side_size(settings.experts), 3 * Stacking.components]
        if [shape[-1] for shape in network.input_shape[:4]] != widths:
            raise another
        return cls(network, settings, front_end)


class LstmSession(ForecastSession):
    """The network at work on one song, in blocks aligned to the song's first frame.

    Matrix kernels may round differently for other shapes or row positions. Therefore an unfinished
    block is evaluated again, zero-padded, each time more of it arrives: a sample always has the
    same position in the same shape, so it gets the same bits however the song is divided.
    """

    def __init__(self, model: LstmForecaster, channels: int) -> None:
        settings = model.settings
        self._network = model.network_for(channels)
        self._front_end = model.front_end.open(channels)
        self._settings = settings
        self._past_residual = np.zeros((channels, settings.look_back), np.float32)
        size = features.summary_size(settings.experts, settings.step_frames)
        self._past_summary = np.zeros((channels, 1, size), np.float32)
        self._state = np.zeros((channels, settings.layers, 2, settings.units), np.float32)
        self._cascade_experts = model.front_end.cascade_experts
        self._cascade = Stacking(channels, self._cascade_experts)
        self._bias_stage = BiasStage(channels)
        self._averaging = ModelAveraging(channels)
        self._begin_block(channels)

    def forecast_block(self, samples: NDArray[np.int16]) -> LogisticMixture:
        """Return the distributions of ``samples`` (frames, channels), then adapt to them."""
        return self.decode(self.encode(samples))

    def encode(self, samples: NDArray[np.int16]) -> EncodedBlock:
        """Run the front end, which does not depend on the network."""
        return self._front_end.encode(samples)

    def decode(self, encoded: EncodedBlock) -> LogisticMixture:
        """Run the network on a block of this or an equal front end, at any block size."""
        parts: list[LogisticMixture] = []
        start = 0
        while start < len(encoded.samples) or not parts:
            stop = min(start + BLOCK_FRAMES - self._filled, len(encoded.samples))
            own = encoded if stop - start == len(encoded.samples) else encoded.cut(start, stop)
            others = [own.mixture]
            if self._cascade_experts:
                means = own.means[..., : self._cascade_experts]
                others.append(self._cascade.combine(own.samples, means).mixture)
            network = self._bias_stage.correct(self._correct(own), own.samples)
            parts.append(self._averaging.average(network, others, own.samples))
            start = stop
        return LogisticMixture(
            weights=np.concatenate([part.weights for part in parts]),
            locations=np.concatenate([part.locations for part in parts]),
            scales=np.concatenate([part.scales for part in parts]),
        )

    def _begin_block(self, channels: int) -> None:
        s = self._settings
        self._block = EncodedBlock.blank(BLOCK_FRAMES, channels, s.experts, s.mixtures)
        self._filled = 0

    def _correct(self, encoded: EncodedBlock) -> LogisticMixture:
        """Return the network's mixture for frames that fit into the unfinished block."""
        first, self._filled = self._filled, self._filled + len(encoded.samples)
        self._block.write(first, encoded)
        if len(encoded.samples) == BLOCK_FRAMES:
            block = _whole_block(encoded, self._settings.experts, self._settings.step_frames)
        else:
            block = features.extract(self._block, self._settings.step_frames)
        output, state = self._network.predict_on_batch(self._inputs(block))
        mixture = absolute_mixture(np.asarray(output), block.unit, self._block.mean.T)
        if self._filled == BLOCK_FRAMES:
            self._state = np.asarray(state)
            self._past_residual = block.residual[:, BLOCK_FRAMES - self._settings.look_back :]
            self._past_summary = block.summary[:, -1:]
            self._begin_block(len(block.unit))
        frames = slice(first, first + len(encoded.samples))
        return LogisticMixture(
            weights=mixture.weights.swapaxes(0, 1)[frames],
            locations=mixture.locations.swapaxes(0, 1)[frames],
            scales=mixture.scales.swapaxes(0, 1)[frames],
        )

    def _inputs(self, block: Features) -> list[F32]:
        """Return the network's inputs: the streams of the block, delayed where needed."""
        own = np.concatenate([self._past_residual, block.residual], axis=1)
        other = own[::-1] if len(own) == 2 else np.zeros_like(own)
        summary = np.concatenate([self._past_summary, block.summary[:, :-1]], axis=1)
        return [summary, np.stack([own, other], axis=-1), block.side, block.base, self._state]


@lru_cache(maxsize=2)
def _whole_block(encoded: EncodedBlock, experts: int, step_frames: int) -> Features:
    """Return the features of a whole block, shared by all networks behind one front end.

    They are computed from a copy: arrays with another memory layout may round differently.
    """
    _, channels, components = encoded.weights.shape
    block = EncodedBlock.blank(BLOCK_FRAMES, channels, experts, components)
    block.write(0, encoded)
    return features.extract(block, step_frames)


def absolute_mixture(
    output: F32, unit: F32, mean: NDArray[np.float64] | float = 0.0
) -> LogisticMixture:
    """Convert the network's ``output`` (channels, n, 3 M) to LSB.

    ``output`` is in units of ``unit`` (channels, n) LSB around ``mean`` (channels, n) LSB.
    """
    log_weights, locations, log_scales = np.split(output.astype(np.float64), 3, axis=-1)
    weights = np.exp(log_weights)
    lsb = unit[..., None].astype(np.float64)
    return LogisticMixture(
        weights=weights / weights.sum(-1, keepdims=True),
        locations=locations * lsb + np.asarray(mean)[..., None],
        scales=np.exp(np.minimum(log_scales, 20.0)) * lsb,
    )

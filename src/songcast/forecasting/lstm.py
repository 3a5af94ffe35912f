"""The multi-song LSTM forecaster: hears through a front end, corrects what it says.

The final distribution is a Bayesian average of the network's mixture, the front end's own and the
cascade's (``model_averaging``): where the network knows a song less well, it cannot lose much.
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
from songcast.forecasting.bias_stage import BiasStage
from songcast.forecasting.distribution import BLOCK_FRAMES, LogisticMixture
from songcast.forecasting.features import Features
from songcast.forecasting.forecaster import Forecaster, ForecastSession
from songcast.forecasting.front_end import EncodedBlock, FrontEndSettings
from songcast.forecasting.model_averaging import ModelAveraging, cascade_experts
from songcast.forecasting.network import NetworkSettings
from songcast.forecasting.stacking import Stacking

Rows = NDArray[np.float32]


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
        """The network for songs of so many channels, with the weights of now.

        TensorFlow compiles a network anew, with other rounding, when it meets a second batch
        size: what a song gets would depend on the songs encoded before. So each has its own.
        """
        import keras

        if channels not in self._networks:
            self._networks[channels] = keras.models.clone_model(self.network)
        self._networks[channels].set_weights(self.network.get_weights())
        return self._networks[channels]

    def session(self, channels: int, sample_rate_hz: int) -> "LstmSession":  # noqa: ARG002
        """Start listening; features are relative, so the sample rate does not matter."""
        return LstmSession(self, channels)

    def save(self, folder: Path, details: dict[str, Any], history_csv: str = "") -> None:
        """Write the bundle; ``details`` go into its bundle.json."""
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
            said = manifest["network"]
            settings = NetworkSettings(**{**said, "head_units": tuple(said["head_units"])})
        except (KeyError, TypeError):  # settings that are not ours
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
    """The network hearing one song, in blocks aligned to the song's first frame.

    Matrix kernels may round differently for other shapes or row positions. So a block begun is
    evaluated again, padded, each time more of it is encoded: a sample always has the same place
    in the same shape, and gets the same bits however the song is cut.
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
        self._cascade_experts = cascade_experts(model.front_end)
        self._cascade = Stacking(channels, self._cascade_experts)
        self._bias_stage = BiasStage(channels)
        self._averaging = ModelAveraging(channels)
        self._begin_block(channels)

    def forecast_block(self, samples: NDArray[np.int16]) -> LogisticMixture:
        """Return the distributions of ``samples`` (frames, channels), then learn from them."""
        return self.decode(self.encode(samples))

    def encode(self, samples: NDArray[np.int16]) -> EncodedBlock:
        """Let the experts hear ``samples``: what the network says changes nothing for them."""
        return self._front_end.encode(samples)

    def decode(self, encoded: EncodedBlock) -> LogisticMixture:
        """Do as ``hear`` does, for what a front end of the same settings has encoded already."""
        parts: list[LogisticMixture] = []
        start = 0
        while start < len(encoded.samples) or not parts:
            stop = min(start + BLOCK_FRAMES - self._filled, len(encoded.samples))
            own = encoded if stop - start == len(encoded.samples) else encoded.cut(start, stop)
            rivals = [own.stacked.mixture]
            if self._cascade_experts:
                means = np.ascontiguousarray(own.means[..., : self._cascade_experts])
                rivals.append(self._cascade.combine(own.samples, means).mixture)
            network = self._bias_stage.correct(self._correct(own), own.samples)
            parts.append(self._averaging.average(network, rivals, own.samples))
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
        """The network's mixture for rows that fit into the block begun."""
        first, self._filled = self._filled, self._filled + len(encoded.samples)
        self._block.write(first, encoded)
        if len(encoded.samples) == BLOCK_FRAMES:
            block = _whole_block(encoded, self._settings.experts, self._settings.step_frames)
        else:
            block = features.extract(self._block, self._settings.step_frames)
        mixture, state = self._network.predict_on_batch(self._inputs(block))
        found = absolute_mixture(np.asarray(mixture), block.unit, self._block.stacked.mean.T)
        if self._filled == BLOCK_FRAMES:
            self._state = np.asarray(state)
            self._past_residual = block.residual[:, BLOCK_FRAMES - self._settings.look_back :]
            self._past_summary = block.summary[:, -1:]
            self._begin_block(len(block.unit))
        rows = slice(first, first + len(encoded.samples))
        return LogisticMixture(
            weights=found.weights.swapaxes(0, 1)[rows],
            locations=found.locations.swapaxes(0, 1)[rows],
            scales=found.scales.swapaxes(0, 1)[rows],
        )

    def _inputs(self, block: Features) -> list[Rows]:
        """What was known before each sample: the block's streams, delayed where needed."""
        own = np.concatenate([self._past_residual, block.residual], axis=1)
        other = own[::-1] if len(own) == 2 else np.zeros_like(own)
        summary = np.concatenate([self._past_summary, block.summary[:, :-1]], axis=1)
        return [summary, np.stack([own, other], axis=-1), block.side, block.base, self._state]


@lru_cache(maxsize=2)
def _whole_block(encoded: EncodedBlock, experts: int, step_frames: int) -> Features:
    """Features of a whole block, shared by all networks that hear it through one front end.

    Taken from a copy: arrays that lie otherwise in memory may round otherwise.
    """
    _, channels, mixtures = encoded.stacked.weights.shape
    block = EncodedBlock.blank(BLOCK_FRAMES, channels, experts, mixtures)
    block.write(0, encoded)
    return features.extract(block, step_frames)


def absolute_mixture(
    mixture: Rows, unit: Rows, mean: NDArray[np.float64] | float = 0.0
) -> LogisticMixture:
    """Turn the network's output (rows, n, 3 M), in units around ``mean``, into LSB."""
    log_weights, locations, log_scales = np.split(mixture.astype(np.float64), 3, axis=-1)
    weights = np.exp(log_weights)
    lsb = unit[..., None].astype(np.float64)
    return LogisticMixture(
        weights=weights / weights.sum(-1, keepdims=True),
        locations=locations * lsb + np.asarray(mean)[..., None],
        scales=np.exp(np.minimum(log_scales, 20.0)) * lsb,
    )

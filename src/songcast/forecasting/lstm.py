"""The multi-song LSTM forecaster: a network that corrects the mixture of its front end.

The final distribution averages the network's mixture, what the match model makes of it, the front
end's own and the cascade's by recent code length, so that an unusual song costs little. A
calibration ends it (``adaptation``).
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from songcast.bundle import OTHER_VERSION, read_arrays, read_manifest, write_bundle
from songcast.errors import BundleError
from songcast.forecasting.adaptation import (
    BiasStage,
    Calibrated,
    MatchStage,
    ModelAveraging,
)
from songcast.forecasting.calibration import Calibration
from songcast.forecasting.feature_kernels import MIN_UNIT_LSB
from songcast.forecasting.features import FeatureExtractor
from songcast.forecasting.forecaster import Forecaster, ForecastSession
from songcast.forecasting.front_end import FrontEndSettings
from songcast.forecasting.network_engine import NetworkSession, NetworkSettings, packed_network
from songcast.forecasting.stacking import EncodedBlock, Stacking

F32 = NDArray[np.float32]
TAPS = "taps_"


class LstmForecaster(Forecaster):
    """A trained network with the front end that it was trained on.

    ``weights``: float32 arrays by name, see ``NetworkSettings.shapes``.
    """

    name = "lstm"

    def __init__(
        self, weights: Mapping[str, F32], settings: NetworkSettings, front_end: FrontEndSettings
    ) -> None:
        self.weights = dict(weights)
        self.settings = settings
        self.front_end = front_end
        self.matrices = packed_network(settings, weights)

    def session(self, channels: int) -> "LstmSession":
        """Return a session for one song; features are relative, so any sample rate will do."""
        return LstmSession(self, channels)

    def save(self, folder: Path, details: dict[str, Any], history_csv: str = "") -> None:
        """Write the bundle; ``details`` are added to its bundle.json."""
        taps = {f"{TAPS}{n}": t for n, t in (self.front_end.taps or {}).items()}
        write_bundle(
            folder,
            kind=self.name,
            arrays={**self.weights, **taps},
            history=history_csv,
            details={
                **details,
                "look_back": self.settings.look_back,
                "scales": {"min_unit_lsb": MIN_UNIT_LSB},
                "network": asdict(self.settings),
                "front_end": self.front_end.to_json(),
            },
        )

    @classmethod
    def load(cls, folder: Path) -> "LstmForecaster":
        """Read a bundle written by ``save``. Raises ``BundleError``."""
        manifest = read_manifest(folder)
        arrays = read_arrays(folder)
        try:
            shape = manifest["network"]
            settings = NetworkSettings(**{**shape, "head_units": tuple(shape["head_units"])})
            shapes = {name: arrays[name].shape for name in settings.shapes}
        except (KeyError, TypeError):  # settings of another version
            raise BundleError(f"{folder}: {OTHER_VERSION}") from None
        if shapes != settings.shapes:
            raise BundleError(f"{folder}: {OTHER_VERSION}")
        taps = {
            int(name.removeprefix(TAPS)): array
            for name, array in arrays.items()
            if name.startswith(TAPS)
        }
        front_end = FrontEndSettings.from_json(manifest["front_end"], taps or None)
        return cls({name: arrays[name] for name in shapes}, settings, front_end)


class LstmSession(ForecastSession):
    """The network and the stages around it at work on one song."""

    def __init__(self, model: LstmForecaster, channels: int) -> None:
        settings = model.settings
        self._front_end = model.front_end.open(channels)
        self._features = FeatureExtractor(channels, settings.experts, settings.step_frames)
        self._network = NetworkSession(settings, model.matrices, channels)
        self._cascade_experts = model.front_end.cascade_experts
        self._cascade = Stacking(channels, self._cascade_experts)
        self._bias_stage = BiasStage(channels)
        self._match_stage = MatchStage(channels)
        self._averaging = ModelAveraging(channels, 5 if self._cascade_experts else 4)
        self._calibration = Calibration(channels)

    def forecast_block(self, samples: NDArray[np.int16]) -> Calibrated:
        """Return the distributions of ``samples`` (frames, channels), then adapt to them."""
        return self.decode(self.encode(samples))

    def encode(self, samples: NDArray[np.int16]) -> EncodedBlock:
        """Run the front end, which does not depend on the network."""
        return self._front_end.encode(samples)

    def decode(self, encoded: EncodedBlock) -> Calibrated:
        """Run the network on a block of this or an equal front end, at any block size."""
        models = [encoded]
        if self._cascade_experts:
            means = encoded.means[..., : self._cascade_experts]
            models.append(self._cascade.combine(encoded.samples, means))
        weights, locations, scales = (
            part.copy() for part in (encoded.weights, encoded.locations, encoded.scales)
        )
        self._network.correct(self._features.extract(encoded), weights, locations, scales)
        x = encoded.samples.T.astype(np.float64)
        network = self._bias_stage.correct(x, weights, locations, scales)
        matched = self._match_stage.candidates(x, network)
        average = self._averaging.average([network, *matched, *models], encoded.samples)
        return Calibrated.of(average, self._calibration)

"""Checkpoints of a training, atomic and tied to what is being trained.

A checkpoint belongs to a fingerprint of params, songs and code; one of another fingerprint
is never resumed. Plain arrays, no pickle.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from songcast.files import atomic_path

Array = NDArray[Any]


class Checkpoint:
    """The state of a training in ``folder``, for trainings with this ``fingerprint`` alone."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = folder
        self._fingerprint = fingerprint
        self._best: list[Array] = []
        self.run_id: str | None = None

    @property
    def _path(self) -> Path:
        return self.folder / "state.npz"

    def restore(self, trainer: Any) -> list[dict[str, float]]:
        """Load weights and optimiser state into ``trainer``; return the rows so far.

        An empty list means a fresh start: there is no checkpoint, or it is another training's.
        """
        if not self._path.is_file():
            return []
        with np.load(self._path, allow_pickle=False) as stored:
            said = json.loads(str(stored["said"]))
            if said["fingerprint"] != self._fingerprint:
                return []
            trainer.set_weights(_numbered(stored, "weight"))
            for variable, value in zip(
                trainer.optimizer.variables, _numbered(stored, "optimizer"), strict=True
            ):
                variable.assign(value)
            self._best = _numbered(stored, "best")
            self.run_id = said["run_id"]
            rows: list[dict[str, float]] = said["rows"]
            return rows

    def peek_run_id(self) -> str | None:
        """Return the MLflow run that this training began with, if there is a checkpoint."""
        if not self._path.is_file():
            return None
        with np.load(self._path, allow_pickle=False) as stored:
            said = json.loads(str(stored["said"]))
        return said["run_id"] if said["fingerprint"] == self._fingerprint else None

    def save(
        self, trainer: Any, rows: Sequence[dict[str, float]], best: Sequence[Array] | None
    ) -> None:
        """Write the state after an epoch; ``best`` where its averaged weights are the best yet."""
        if best is not None or not self._best:
            self._best = list(best) if best is not None else trainer.get_weights()
        said = {"fingerprint": self._fingerprint, "run_id": self.run_id, "rows": list(rows)}
        arrays: dict[str, Any] = {"said": np.array(json.dumps(said))}
        groups = {
            "weight": trainer.get_weights(),
            "optimizer": [np.asarray(v) for v in trainer.optimizer.variables],
            "best": self._best,
        }
        for name, values in groups.items():
            arrays |= {f"{name}_{i}": value for i, value in enumerate(values)}
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(self._path) as temporary:
            np.savez(temporary, **arrays)

    def best_weights(self) -> list[Array]:
        """Return the averaged weights of the best epoch so far."""
        return self._best

    def clear(self) -> None:
        """Forget the training: its bundle is written."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _numbered(stored: Any, name: str) -> list[Array]:
    count = sum(1 for key in stored.files if key.rsplit("_", 1)[0] == name)
    return [stored[f"{name}_{i}"] for i in range(count)]

"""Checkpoints of a training: written atomically, as plain arrays without pickle.

A checkpoint belongs to a fingerprint of params, songs and code. A training with another
fingerprint does not resume from it.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from songcast.data.code_digest import code_digest
from songcast.data.corpus import PreparedSong
from songcast.files import atomic_path

Array = NDArray[Any]


def fingerprint(
    params: Mapping[str, Any], songs: Iterable[PreparedSong], *more: str, code: Sequence[str]
) -> str:
    """Return a digest of the params, the songs with their splits, and the code.

    ``more``: further text that the result depends on. ``code``: names of the modules that train;
    what they import from songcast counts too, other modules do not.
    """
    parts = [params, *more, code_digest(*code)]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    for song in songs:
        entry = [song.slug, song.sha256, song.frames, song.sample_rate_hz, dict(song.splits)]
        digest.update(json.dumps(entry, sort_keys=True).encode())
    return digest.hexdigest()


class Checkpoint:
    """The state of a training in ``folder``, of the trainings with this ``fingerprint``.

    ``best``: the averaged weights of the best epoch so far. ``run_id``: of the MLflow run in which
    the training began.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = folder
        self._fingerprint = fingerprint
        self._path = folder / "state.npz"
        self.best: list[Array] = []
        self.run_id: str | None = self._record().get("run_id")

    def restore(self, trainer: Any) -> list[dict[str, float]]:
        """Load weights and optimiser state into ``trainer``; return one row per finished epoch.

        An empty list means a fresh start: there is no checkpoint, or it is another training's.
        """
        record = self._record()
        if not record:
            return []
        with np.load(self._path, allow_pickle=False) as stored:
            trainer.set_weights(_numbered(stored, "weight"))
            for variable, value in zip(
                trainer.optimizer.variables, _numbered(stored, "optimizer"), strict=True
            ):
                variable.assign(value)
            self.best = _numbered(stored, "best")
        return list(record["rows"])

    def save(
        self, trainer: Any, rows: Sequence[dict[str, float]], best: Sequence[Array] | None
    ) -> None:
        """Write the state after an epoch; ``best``: its averaged weights if they are the best."""
        if best is not None or not self.best:
            self.best = list(best) if best is not None else trainer.get_weights()
        record = {"fingerprint": self._fingerprint, "run_id": self.run_id, "rows": list(rows)}
        arrays: dict[str, Any] = {"record": np.array(json.dumps(record))}
        groups = {
            "weight": trainer.get_weights(),
            "optimizer": [np.asarray(v) for v in trainer.optimizer.variables],
            "best": self.best,
        }
        for name, values in groups.items():
            arrays |= {f"{name}_{i}": value for i, value in enumerate(values)}
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(self._path) as temporary:
            np.savez(temporary, **arrays)

    def clear(self) -> None:
        """Delete the checkpoint; call it after the bundle is written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _record(self) -> dict[str, Any]:
        """Return ``rows`` and ``run_id``, {} without a checkpoint and for another training's."""
        if not self._path.is_file():
            return {}
        with np.load(self._path, allow_pickle=False) as stored:
            record = json.loads(str(stored["record"])) if "record" in stored.files else {}
        return record if record.get("fingerprint") == self._fingerprint else {}


def _numbered(stored: Any, name: str) -> list[Array]:
    count = sum(1 for key in stored.files if key.rsplit("_", 1)[0] == name)
    return [stored[f"{name}_{i}"] for i in range(count)]

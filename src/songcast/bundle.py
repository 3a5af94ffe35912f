"""A bundle: a folder with everything that is needed to use a model, without pickles.

It has ``bundle.json`` (kind, settings, params, provenance, versions, sha256 of each file) and
``weights.safetensors``, plain arrays by name. Equal models give equal bytes, apart from the
provenance.
"""

import csv
import hashlib
import importlib.metadata
import io
import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from songcast.errors import BundleError
from songcast.files import atomic_folder, sha256_of_file

MANIFEST = "bundle.json"
WEIGHTS = "weights.safetensors"
# The network of bundles that songcast up to version 0.2 wrote.
OLD_FILES = ("network.keras", "arrays.npz")
HISTORY = "history.csv"
# The sub-folder of a package that holds the bundle of the continuation model.
CONTINUATION = "continuation"
VERSIONED = ("songcast", "keras", "tensorflow", "numpy", "numba")

OTHER_VERSION = (
    "made by another version of songcast, whose models differ; "
    "use that version, or train again with `make run`"
)
RESTORE = "restore the bundle, e.g. with `dvc checkout` or `make run`"

Array = NDArray[Any]


def write_bundle(
    folder: Path,
    *,
    kind: str,
    details: Mapping[str, Any],
    arrays: Mapping[str, Array],
    history: str | None = None,
) -> None:
    """Write a bundle; an earlier one is replaced only when the whole new one is on disk.

    ``arrays``: name to array. ``details``: further keys of bundle.json with JSON values, such as
    sample_rate_hz, channels, look_back, scales and params. ``history``: the content of
    history.csv; None: no such file.
    """
    with atomic_folder(folder) as scratch:
        # safetensors writes the memory of an array, whatever its strides.
        plain = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        (scratch / WEIGHTS).write_bytes(safetensors.numpy.save(plain))
        if history is not None:
            (scratch / HISTORY).write_text(history)
        manifest = {
            "kind": kind,
            **details,
            "versions": versions(),
            "weights_sha256": weights_sha256(plain),
        }
        _write_manifest(scratch, manifest)


def write_package(folder: Path, forecaster: Path, continuation: Path) -> None:
    """Write a bundle that holds the bundle ``forecaster`` and, in a sub-folder, ``continuation``.

    A package is a forecaster's bundle with two more things: the files of the continuation bundle
    in ``continuation/`` and ``continuation_weights_sha256`` in bundle.json. Raises
    ``BundleError`` where one of the two is missing or altered.
    """
    manifest, other = read_manifest(forecaster), read_manifest(continuation)
    with atomic_folder(folder) as scratch:
        for file in manifest["files"]:
            shutil.copy2(forecaster / file, scratch / file)
        (scratch / CONTINUATION).mkdir()
        for file in (MANIFEST, *other["files"]):
            shutil.copy2(continuation / file, scratch / CONTINUATION / file)
        weights = {"continuation_weights_sha256": other["weights_sha256"]}
        _write_manifest(scratch, {**manifest, **weights})


def content_sha256(folder: Path) -> str:
    """Return a digest of a bundle or package without its provenance.

    It is equal for models that were trained in the same way at different times or places.
    """
    manifest = read_manifest(folder, verify=False)
    manifest.pop("provenance", None)
    if manifest["files"].pop(f"{CONTINUATION}/{MANIFEST}", None):
        manifest[CONTINUATION] = content_sha256(folder / CONTINUATION)
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write bundle.json with the sha256 of every other file in ``folder``."""
    files = {
        p.relative_to(folder).as_posix(): sha256_of_file(p)
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }
    (folder / MANIFEST).write_text(json.dumps({**manifest, "files": files}, indent=2) + "\n")


def read_manifest(folder: Path, *, verify: bool = True) -> dict[str, Any]:
    """Return bundle.json; with ``verify``, check the sha256 of each file first.

    Raises ``BundleError`` if the folder is not a bundle, is incomplete or was altered.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise BundleError(
            f"{folder}: no model bundle here ({MANIFEST} is missing); "
            "make one with `make run`, or name another model"
        )
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
        files: dict[str, str] = dict(manifest["files"])
        manifest["kind"], manifest["weights_sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path}: not a valid bundle.json ({error}); restore it") from None
    if verify:
        for name, sha256 in files.items():
            file = folder / name
            if not _inside(name) or not file.is_file() or sha256_of_file(file) != sha256:
                raise BundleError(f"{file}: missing or altered (sha256 differs); {RESTORE}")
    return manifest


def versions() -> dict[str, str]:
    """Return the versions of the installed packages that affect a model, by name."""
    installed: dict[str, str] = {}
    for name in VERSIONED:
        with suppress(importlib.metadata.PackageNotFoundError):
            installed[name] = importlib.metadata.version(name)
    return installed


def _inside(name: str) -> bool:
    """Return whether ``name`` is a file in the bundle or directly in a sub-folder."""
    parts = name.split("/")
    return len(parts) <= 2 and not {"", ".", ".."} & set(parts)


def read_arrays(folder: Path) -> dict[str, Array]:
    """Return the arrays of a bundle.

    Raises ``BundleError`` for a damaged file, and for weights other than those of bundle.json,
    which detects a file that was replaced together with its hash.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        old = any((folder / name).is_file() for name in OLD_FILES)
        raise BundleError(f"{folder}: {OTHER_VERSION}" if old else f"{path}: missing; {RESTORE}")
    try:
        arrays: dict[str, Array] = safetensors.numpy.load(path.read_bytes())
    except (SafetensorError, KeyError) as error:
        raise BundleError(f"{path}: damaged ({error}); {RESTORE}") from None
    if weights_sha256(arrays) != read_manifest(folder, verify=False)["weights_sha256"]:
        raise BundleError(f"{folder}: weights differ from {MANIFEST} (sha256); {RESTORE}")
    return arrays


def read_history(folder: Path) -> list[dict[str, float]]:
    """Return the rows of a bundle's history.csv, ``step`` and metrics; [] without it."""
    if not (folder / HISTORY).is_file():
        return []
    with (folder / HISTORY).open(newline="") as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


def history_csv(rows: Sequence[Mapping[str, float]]) -> str:
    """Return the content of history.csv: one line per epoch, ``step`` first."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "step": int(row["step"])} for row in rows)
    return stream.getvalue()


def weights_sha256(weights: Mapping[str, Array]) -> str:
    """Return a digest of names, dtypes, shapes and values; equal models have equal digests."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        array = np.ascontiguousarray(weights[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()

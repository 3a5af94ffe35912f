"""A bundle: a folder with everything that is needed to use a model, without pickles.

It has ``bundle.json`` (kind, settings, params, versions, sha256 of each file), ``arrays.npz`` for
plain arrays and ``network.keras`` for a Keras network. Equal models give equal bytes, so that DVC
detects real changes only.
"""

import csv
import hashlib
import importlib.metadata
import io
import json
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from songcast.errors import BundleError
from songcast.files import atomic_folder, sha256_of_file

MANIFEST = "bundle.json"
ARRAYS = "arrays.npz"
NETWORK = "network.keras"
HISTORY = "history.csv"
# The sub-folder of a package that holds the bundle of the continuation model.
CONTINUATION = "continuation"
VERSIONED = ("songcast", "keras", "tensorflow", "numpy", "numba")
# Zip members have a date; a constant one gives equal bytes for equal content.
EPOCH = (1980, 1, 1, 0, 0, 0)

# The members of a network file, and the classes and functions that its config may name.
CONFIG = "config.json"
NETWORK_MEMBERS = {CONFIG, "metadata.json", "model.weights.h5"}
PARTS = re.compile(
    r"keras\.(DTypePolicy|Functional|optimizers\.\w+|initializers\.\w+"
    r"|layers\.(Activation|Concatenate|Dense|InputLayer|LeakyReLU|LSTM|ReLU))"
    r"|keras\.src\.(models\.functional\.Functional|ops\.numpy\.\w+)"
    r"|songcast\.[\w.]+"
)
# Keras writes the inputs of an operation like this; it looks up no class for them.
PLACEHOLDERS = {"__keras_tensor__", "__slice__", "__ellipsis__"}

RESTORE = "restore the bundle, e.g. with `dvc checkout` or `make run`"

Array = NDArray[Any]


def write_bundle(
    folder: Path,
    *,
    kind: str,
    details: Mapping[str, Any],
    arrays: Mapping[str, Array] | None = None,
    network: Any = None,
    texts: Mapping[str, str] | None = None,
) -> None:
    """Write a bundle; an earlier one is replaced only when the whole new one is on disk.

    ``arrays``: name to array. ``network``: a Keras model. ``texts``: file name to content, such
    as history.csv. ``details``: further keys of bundle.json with JSON values, such as
    sample_rate_hz, channels, look_back, scales and params.
    """
    with atomic_folder(folder) as scratch:
        weights: dict[str, Array] = {}
        if arrays:
            (scratch / ARRAYS).write_bytes(_npz_bytes(arrays))
            weights.update(arrays)
        if network is not None:
            network.save(scratch / NETWORK)
            _fix_dates(scratch / NETWORK)
            weights.update(network_weights(network))
        for name, text in (texts or {}).items():
            (scratch / name).write_text(text)
        manifest = {
            "kind": kind,
            **details,
            "versions": {name: importlib.metadata.version(name) for name in VERSIONED},
            "weights_sha256": weights_sha256(weights),
        }
        _write_manifest(scratch, manifest)


def write_package(folder: Path, forecaster: Path, continuation: Path) -> None:
    """Write a bundle that holds the bundle ``forecaster`` and, in a sub-folder, ``continuation``.

    A package is a forecaster's bundle with two more things: the files of the continuation bundle
    in ``continuation/`` and ``continuation_weights_sha256`` in bundle.json. Raises
    ``BundleError`` where one of the two is missing or altered.
    """
    manifest = read_manifest(forecaster)
    weights = str(read_manifest(continuation)["weights_sha256"])
    with atomic_folder(folder) as scratch:
        for source, target in ((forecaster, scratch), (continuation, scratch / CONTINUATION)):
            target.mkdir(exist_ok=True)
            for file in (MANIFEST, *read_manifest(source, verify=False)["files"]):
                shutil.copy2(source / file, target / file)
        (scratch / MANIFEST).unlink()
        _write_manifest(scratch, {**manifest, "continuation_weights_sha256": weights})


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


def check_weights(folder: Path, network: Any) -> None:
    """Raise ``BundleError`` if a bundle's weights differ from ``weights_sha256`` in bundle.json.

    This detects a file that was replaced together with its hash in bundle.json. ``network``: the
    Keras model of the bundle.
    """
    weights = network_weights(network)
    if (folder / ARRAYS).is_file():
        weights |= read_arrays(folder)
    if weights_sha256(weights) != read_manifest(folder, verify=False)["weights_sha256"]:
        raise BundleError(f"{folder}: weights differ from {MANIFEST} (sha256); {RESTORE}")


def _inside(name: str) -> bool:
    """Return whether ``name`` is a file in the bundle or directly in a sub-folder."""
    parts = name.split("/")
    return len(parts) <= 2 and not {"", ".", ".."} & set(parts)


def read_arrays(folder: Path) -> dict[str, Array]:
    """Return the arrays of a bundle. Raises ``BundleError`` for an unsafe archive."""
    check_archive(folder / ARRAYS)
    with np.load(folder / ARRAYS, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def read_history(folder: Path) -> list[dict[str, float]]:
    """Return the rows of a bundle's history.csv, ``step`` and metrics; [] without it."""
    if not (folder / HISTORY).is_file():
        return []
    with (folder / HISTORY).open(newline="") as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


def network_weights(network: Any) -> dict[str, Array]:
    """Return a Keras network's weights by path."""
    return {f"network/{w.path}": np.asarray(w) for w in network.weights}


def weights_sha256(weights: Mapping[str, Array]) -> str:
    """Return a digest of names, dtypes, shapes and values; equal models have equal digests."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        array = np.ascontiguousarray(weights[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _npz_bytes(arrays: Mapping[str, Array]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in sorted(arrays):
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(arrays[name]))
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", EPOCH), member.getvalue())
    return stream.getvalue()


def _fix_dates(path: Path) -> None:
    """Rewrite a .keras archive without dates, so that equal networks have equal bytes."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in sorted(archive.namelist())}
    metadata = json.loads(members["metadata.json"])
    metadata.pop("date_saved", None)
    members["metadata.json"] = json.dumps(metadata).encode()
    members["config.json"] = _number_shared_objects(members["config.json"])
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name, EPOCH), content)


def _number_shared_objects(config: bytes) -> bytes:
    """Replace the ids of shared objects, which Keras takes from memory addresses, by numbers."""
    seen: dict[bytes, int] = {}

    def number(match: re.Match[bytes]) -> bytes:
        return b'"shared_object_id": %d' % seen.setdefault(match[1], len(seen))

    return re.sub(rb'"shared_object_id": (\d+)', number, config)


def check_archive(path: Path) -> list[str]:
    """Return the names of the members of a zip file if it is safe to read.

    Raises ``BundleError`` if it is damaged, contains paths or duplicate names, or is larger
    unpacked than on disk: the archives of a bundle are not compressed.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
        raise BundleError(f"{path}: damaged archive ({error}); restore the bundle") from None
    names = [member.filename for member in members]
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise BundleError(f"{path}: larger unpacked than on disk; restore the bundle")
    if len(set(names)) < len(names) or any("/" in name or "\\" in name for name in names):
        raise BundleError(f"{path}: contains paths or duplicate names; restore the bundle")
    return names


def read_network(path: Path) -> Any:
    """Return the Keras model in ``path`` for predictions; custom layers must be imported already.

    Raises ``BundleError`` if the file is damaged or has parts other than those of our networks.
    """
    unexpected: set[str] = set(check_archive(path)) ^ NETWORK_MEMBERS
    if not unexpected:
        with zipfile.ZipFile(path) as archive:
            config = archive.read(CONFIG)
        try:
            unexpected = {part for part in parts(json.loads(config)) if not PARTS.fullmatch(part)}
        except (ValueError, RecursionError):
            unexpected = {CONFIG}
    if unexpected:
        raise BundleError(
            f"{path}: missing or unexpected part ({sorted(unexpected)[0]}); restore the bundle"
        )
    import keras

    try:
        return keras.saving.load_model(path, compile=False)
    except (ValueError, TypeError, KeyError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise BundleError(f"{path}: cannot be built ({reason}); restore the bundle") from None


def parts(config: Any) -> Iterator[str]:
    """Yield the full name of each class and function in a Keras config."""
    if isinstance(config, dict):
        name = config.get("class_name")
        if name is not None and str(name) not in PLACEHOLDERS:
            yield f"{config.get('module')}.{name}"
        config = list(config.values())
    if isinstance(config, list):
        for value in config:
            yield from parts(value)

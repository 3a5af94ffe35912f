"""The files of a registered version: its bundle, its model card, where it came from.

What a server says about them is not believed: names that would leave their folder are refused.
The sha256 of bundle.json, which holds that of every other file, must be the registered one.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from songcast.bundle import MANIFEST, read_manifest
from songcast.errors import BundleError, RegistryError
from songcast.files import TEMPORARY_PREFIX, sha256_of_file
from songcast.registry import Version, named
from songcast.tracking.run_data import BUNDLE
from songcast.tracking.store import clear_errors, connect, database, import_mlflow, tracking_uri

CARD, LINEAGE = "model_card.md", "lineage.json"
# Where MLflow keeps what a model made from code was given.
BUNDLES = "artifacts"
# artifacts/train/continuation/network.keras
MOST_PARTS = 4
SHA256 = re.compile(r"[0-9a-f]{64}")


def resolve(uri: str) -> Path:
    """Return the local bundle folder of ``models:/songcast@ALIAS`` or ``models:/songcast/N``.

    From a server it is downloaded once, into the user's cache. Its sha256 is verified each
    time. Raises ``RegistryError`` where there is no such version, ``BundleError`` where
    its files are missing or altered, ``TrackingError`` where the store cannot be reached.
    """
    found = named(uri)
    folder = _fetch(found)
    if not _is_registered(folder, found):
        raise BundleError(
            f"{uri}: the files in {folder} are not those that were registered "
            "(sha256 differs): restore the artifacts"
        )
    return folder


def pull(uri: str, folder: Path) -> Version:
    """Write the bundle of ``uri`` and its model card into the new ``folder``.

    The folder appears when it is whole and verified, or not at all. Raises what ``resolve``
    does, and ``RegistryError`` where ``folder`` is there already or cannot be written.
    """
    target = folder.absolute()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise RegistryError(f"{folder}: is there already: name a new folder")
    found = named(uri)
    bundle = resolve(found.uri)  # by number: the alias may move meanwhile
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=TEMPORARY_PREFIX) as scratch:
            copy = Path(scratch) / "bundle"
            for name in (MANIFEST, *read_manifest(bundle)["files"]):  # and nothing beside them
                (copy / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(bundle / name, copy / name)
            read_manifest(copy)
            card = read_attached(found, CARD)
            if card is not None:
                (copy / CARD).write_text(card, encoding="utf-8")
            copy.replace(target)
    except OSError as error:
        raise RegistryError(f"{folder}: cannot be written ({error.strerror})") from error
    return found


def attach(found: Version, files: Mapping[str, str]) -> None:
    """Put text files (name to content) beside the version's model, replacing those of that name."""
    with clear_errors(tracking_uri()), tempfile.TemporaryDirectory() as scratch:
        repository = _repository(found)
        for name, text in files.items():
            path = Path(scratch) / name
            path.write_text(text, encoding="utf-8")
            repository.log_artifact(str(path))


def read_attached(found: Version, name: str) -> str | None:
    """Return a file that ``attach`` wrote, None for a version without it."""
    with clear_errors(tracking_uri()), tempfile.TemporaryDirectory() as scratch:
        repository = _repository(found)
        if name not in (info.path for info in repository.list_artifacts()):
            return None
        return Path(repository.download_artifacts(name, scratch)).read_text(encoding="utf-8")


def _fetch(found: Version) -> Path:
    """Return the bundle folder inside the version's artifacts, downloaded if need be."""
    uri = tracking_uri()
    with clear_errors(uri):
        connect(uri)
        for digest in (found.weights_sha256, found.tags.get(BUNDLE, found.weights_sha256)):
            if not SHA256.fullmatch(digest):  # one of them names a folder below
                raise BundleError(f"{found.uri}: no sha256 of its weights is registered")
        repository = _repository(found)
        if database(uri):  # in place, nothing is copied
            return _only_bundle(Path(repository.download_artifacts(BUNDLES)))
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "songcast"
        proof = found.tags.get(BUNDLE, found.weights_sha256)
        kept = cache / proof
        if _is_whole(kept, found):
            return kept
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            for path in listing(repository, BUNDLES):
                repository.download_artifacts(path, scratch)
            bundle = _only_bundle(Path(scratch) / BUNDLES)
            read_manifest(bundle)
            # What another process put there meanwhile may be being read.
            if not _is_whole(kept, found):
                shutil.rmtree(kept, ignore_errors=True)
                bundle.rename(kept)
    return kept


def listing(repository: Any, folder: str) -> Iterator[str]:
    """Yield the paths of all files in ``folder`` of an artifact repository.

    Raises ``BundleError`` for a path that does not lie directly in the folder it was listed in,
    or lies deeper than any file of a bundle.
    """
    for info in repository.list_artifacts(folder):
        path = PurePosixPath(info.path)
        if str(path.parent) != folder or path.name in ("", "..") or "\\" in info.path:
            raise BundleError(f"{info.path}: leaves the folder {folder}: this server is not sound")
        if len(path.parts) > MOST_PARTS:
            raise BundleError(f"{info.path}: in no bundle lies anything so deep: not downloaded")
        if info.is_dir:
            yield from listing(repository, info.path)
        else:
            yield info.path


def _repository(found: Version) -> Any:
    import_mlflow()
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    uri = tracking_uri()
    return get_artifact_repository(found.source, tracking_uri=uri, registry_uri=uri)


def _only_bundle(artifacts: Path) -> Path:
    """Return the folder with bundle.json below a model's artifacts."""
    for manifest in sorted(artifacts.glob(f"*/{MANIFEST}")) or sorted(artifacts.glob(MANIFEST)):
        return manifest.parent
    raise BundleError(f"{artifacts}: the registered model carries no {MANIFEST}: register it again")


def _is_registered(bundle: Path, found: Version) -> bool:
    """Whether these are the files that were registered. Raises ``BundleError``."""
    weights = read_manifest(bundle)["weights_sha256"]
    # Versions of before its sha256 was kept have none: then the weights that it names must do.
    proof = found.tags.get(BUNDLE) or sha256_of_file(bundle / MANIFEST)
    return (weights, sha256_of_file(bundle / MANIFEST)) == (found.weights_sha256, proof)


def _is_whole(bundle: Path, found: Version) -> bool:
    try:
        return _is_registered(bundle, found)
    except BundleError:
        return False

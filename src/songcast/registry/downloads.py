"""Download the package of a registered version and its model card.

Paths from a server are checked: one that would leave its folder is refused. The sha256 of
bundle.json, which holds that of every other file, must be the registered one.
"""

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from songcast.bundle import MANIFEST, read_manifest
from songcast.errors import BundleError, RegistryError
from songcast.files import atomic_folder, sha256_of_file, user_cache
from songcast.registry.versions import Version, find_version, read_attached, repository
from songcast.tracking.embedded import local_path
from songcast.tracking.run_data import BUNDLE
from songcast.tracking.store import clear_errors, tracking_uri

CARD = "model_card.md"
# The folder in which MLflow keeps the files of a model from code.
BUNDLES = "artifacts"
# The deepest file is artifacts/train/continuation/weights.safetensors.
MOST_PARTS = 4
SHA256 = re.compile(r"[0-9a-f]{64}")


def resolve(uri: str) -> Path:
    """Return the local bundle folder of ``models:/songcast@ALIAS`` or ``models:/songcast/N``.

    It is downloaded from a server once, into the user's cache. Its sha256 is verified each time.
    Raises ``RegistryError`` for an unknown version, ``BundleError`` if its files are missing or
    altered, ``TrackingError`` if the store cannot be reached.
    """
    version = find_version(uri)
    folder = _fetch(version)
    if not _is_registered(folder, version):
        raise BundleError(
            f"{uri}: the files in {folder} differ from the registered ones "
            "(sha256 differs): restore the artifacts"
        )
    return folder


def pull(uri: str, folder: Path) -> Version:
    """Write the package of ``uri`` and its model card into the new ``folder``; return the version.

    The folder appears complete and verified, or not at all. Raises the same errors as ``resolve``,
    and ``RegistryError`` if ``folder`` already exists or cannot be written.
    """
    target = folder.absolute()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise RegistryError(f"{folder}: already exists: name a new folder")
    version = find_version(uri)
    bundle = resolve(version.uri)  # by number, because the alias may move meanwhile
    try:
        with atomic_folder(target) as copy:
            for name in (MANIFEST, *read_manifest(bundle)["files"]):  # and no other files
                (copy / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(bundle / name, copy / name)
            read_manifest(copy)
            card = read_attached(version, CARD)
            if card is not None:
                (copy / CARD).write_text(card, encoding="utf-8")
    except OSError as error:
        raise RegistryError(f"{folder}: cannot be written ({error.strerror})") from error
    return version


def _fetch(version: Version) -> Path:
    """Return the package folder inside the version's artifacts, downloaded if necessary."""
    with clear_errors(tracking_uri()):
        proof = version.tags.get(BUNDLE, "")
        if not SHA256.fullmatch(proof):  # it becomes the name of a folder
            raise BundleError(f"{version.uri}: no sha256 of its files is registered")
        folder = local_path(version.source)
        if folder:  # in place, without a copy
            return _only_bundle(folder / BUNDLES)
        source = repository(version)
        cache = user_cache()
        target = cache / proof
        if _is_complete(target, version):
            return target
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            for path in listing(source, BUNDLES):
                source.download_artifacts(path, scratch)
            bundle = _only_bundle(Path(scratch) / BUNDLES)
            read_manifest(bundle)
            # Another process may have downloaded it meanwhile and be reading it.
            if not _is_complete(target, version):
                shutil.rmtree(target, ignore_errors=True)
                bundle.rename(target)
    return target


def listing(repository: Any, folder: str) -> Iterator[str]:
    """Yield the paths of all files in ``folder`` of an artifact repository.

    Raises ``BundleError`` for a path that is not directly in its listed folder, or is deeper than
    any file of a package.
    """
    for info in repository.list_artifacts(folder):
        path = PurePosixPath(info.path)
        if str(path.parent) != folder or path.name in ("", "..") or "\\" in info.path:
            raise BundleError(f"{info.path}: leaves the folder {folder}: refused")
        if len(path.parts) > MOST_PARTS:
            raise BundleError(f"{info.path}: deeper than any file of a package: refused")
        if info.is_dir:
            yield from listing(repository, info.path)
        else:
            yield info.path


def _only_bundle(artifacts: Path) -> Path:
    """Return the folder with bundle.json below a model's artifacts."""
    for manifest in sorted(artifacts.glob(f"*/{MANIFEST}")) or sorted(artifacts.glob(MANIFEST)):
        return manifest.parent
    raise BundleError(f"{artifacts}: the registered model has no {MANIFEST}: register it again")


def _is_registered(bundle: Path, version: Version) -> bool:
    """Return whether these are the registered files. Raises ``BundleError``."""
    read_manifest(bundle)
    return sha256_of_file(bundle / MANIFEST) == version.tags.get(BUNDLE)


def _is_complete(bundle: Path, version: Version) -> bool:
    try:
        return _is_registered(bundle, version)
    except BundleError:
        return False

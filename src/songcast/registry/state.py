"""Whether registered.json agrees with the registry and with the inputs of the stage register.

The stage register runs in every `dvc repro`, because DVC cannot see that a version was deleted in
MLflow or that another store is in use. It makes this comparison, which takes a second, and
registers again only if something is different.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import yaml

from songcast.errors import TrackingError
from songcast.files import sha256_of_file
from songcast.registry.versions import CHALLENGER, CHAMPION, read_registry
from songcast.tracking.embedded import database
from songcast.tracking.store import home, tracking_uri


def is_current(registered: Path, inputs: str | None) -> bool:
    """Return whether registered.json was written from ``inputs`` and agrees with the registry.

    A version whose run is deleted does not count.
    """
    try:
        content: dict[str, Any] = json.loads(registered.read_text(encoding="utf-8"))
        if inputs is None or (content["inputs"], content["store"]) != (inputs, store_name()):
            return False
        versions, aliases = read_registry()
        present = {version.number for version in versions if not version.is_run_deleted}
        return set(content["versions"].values()) <= present and (
            aliases.get(CHALLENGER),
            aliases.get(CHAMPION),
        ) == (content["challenger"], content["champion"])
    except (OSError, ValueError, KeyError, AttributeError, TypeError, TrackingError):
        return False


def digest_of_inputs(folder: Path) -> str | None:
    """Return a digest of the files that the stage depends on; None if one is missing."""
    try:
        pipeline = yaml.safe_load((folder / "dvc.yaml").read_text(encoding="utf-8"))
        digest = hashlib.sha256()
        for path in (folder / dep for dep in pipeline["stages"]["register"]["deps"]):
            files = sorted(p for p in path.rglob("*.*") if p.is_file()) if path.is_dir() else [path]
            for file in (f for f in files if "__pycache__" not in f.parts):
                digest.update(f"{file.relative_to(folder)} {sha256_of_file(file)}\n".encode())
    except (OSError, TypeError, KeyError, yaml.YAMLError):
        return None
    return digest.hexdigest()


def store_name() -> str:
    """Return the name of the store in use: ``embedded``, or its URI without credentials."""
    uri = tracking_uri()
    if database(uri) == home() / "mlflow.db":
        return "embedded"
    return re.sub(r"//[^/@]*@", "//", uri)

"""The present state of the registry, without MLflow's client where the store is an sqlite file.

The stage register runs in every `dvc repro`, because DVC cannot see that a version was deleted in
MLflow or that another store is in use. It compares this state with registered.json, which takes a
second, and registers again only if something is different.
"""

import hashlib
import json
import re
import sqlite3
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from songcast.files import sha256_of_file
from songcast.registry.versions import CHALLENGER, CHAMPION, NAME, list_versions
from songcast.tracking.embedded import database, read_versions
from songcast.tracking.store import home, tracking_uri


class State(NamedTuple):
    """``versions``: numbers, without those whose run is deleted. ``aliases``: alias to version."""

    versions: set[int]
    aliases: dict[str, int]


def read_state() -> State:
    """Return the state of the store in use; without a database or a model it is empty.

    Raises ``TrackingError`` if a server cannot be reached.
    """
    file = database(tracking_uri())
    if file is None:
        found = list_versions()
        aliases = {alias: version.number for version in found for alias in version.aliases}
        return State({version.number for version in found}, aliases)
    try:
        records, aliases = read_versions(file, NAME)
    except sqlite3.Error:  # a broken database
        return State(set(), {})
    return State({r.version for r in records if not r.is_run_deleted}, aliases)


def is_current(registered: Path, inputs: str | None) -> bool:
    """Return whether registered.json was written from ``inputs`` and agrees with the registry."""
    try:
        content: dict[str, Any] = json.loads(registered.read_text(encoding="utf-8"))
        if inputs is None or (content["inputs"], content["store"]) != (inputs, store_name()):
            return False
        state = read_state()
        aliases = (state.aliases.get(CHALLENGER), state.aliases.get(CHAMPION))
        return set(content["versions"].values()) <= state.versions and aliases == (
            content["challenger"],
            content["champion"],
        )
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return False


def digest_of_inputs(folder: Path, stage: str = "register") -> str | None:
    """Return a digest of the files that ``stage`` depends on; None if one is missing."""
    try:
        pipeline = yaml.safe_load((folder / "dvc.yaml").read_text(encoding="utf-8"))
        entry = pipeline["stages"][stage]
        digest = hashlib.sha256()
        for path in (folder / dep for dep in entry["deps"]):
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

"""Trace a registered version to its parents, its code and the songs in its training data."""

import json
from typing import Any

from songcast.errors import RegistryError
from songcast.registry.downloads import LINEAGE, read_attached
from songcast.registry.versions import (
    PARAMS,
    PARENT_VERSION,
    SEEDS,
    Version,
    find_version,
    list_versions,
)
from songcast.tracking.lineage import ORIGIN


def trace(uri: str) -> list[dict[str, Any]]:
    """Return the version ``uri`` and its ancestors, newest first, as JSON values.

    Raises ``RegistryError`` for an unknown version and for a record that is invalid.
    """
    known = {version.number: version for version in list_versions()}
    link: Version | None = find_version(uri)
    chain: list[Version] = []
    while link is not None and link not in chain:
        chain.append(link)
        parent = link.tags.get(PARENT_VERSION, "")
        link = known.get(int(parent)) if parent.isdecimal() else None
    return [_entry(version) for version in chain]


def _entry(version: Version) -> dict[str, Any]:
    tags = version.tags
    attached = _record(version, LINEAGE, read_attached(version, LINEAGE))
    return {
        "uri": version.uri,
        "version": version.number,
        "kind": version.kind,
        "aliases": list(version.aliases),
        "created_ms": version.created_ms,
        "weights_sha256": version.weights_sha256,
        "run_id": version.run_id,
        **{key: tags.get(f"songcast.{key}") for key in ORIGIN},
        "params": _record(version, PARAMS, tags.get(PARAMS)),
        "seeds": _record(version, SEEDS, tags.get(SEEDS)),
        "parent_version": tags.get(PARENT_VERSION),
        "songs": attached.get("songs", []),
    }


def _record(version: Version, name: str, text: str | None) -> dict[str, Any]:
    """Read a record that is stored as a JSON object; a missing one is empty."""
    try:
        record = json.loads(text or "{}")
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise RegistryError(
            f"{version.uri}: {name} in the registry is not a JSON object; register the model again"
        )
    return record

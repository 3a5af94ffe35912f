"""The chain from a registered version to the songs it learned from."""

import json
from typing import Any

from songcast import registry
from songcast.errors import RegistryError
from songcast.registry import PARAMS, PARENT_VERSION, SEEDS, Version
from songcast.registry.files import LINEAGE, read_attached

ORIGIN = ("git_commit", "git_dirty", "data_hash", "lock_sha256", "backend", "hardware")


def trace(uri: str) -> list[dict[str, Any]]:
    """Return the version ``uri`` and its ancestors, youngest first, as JSON-able values.

    Raises ``RegistryError`` for a URI that names no version, and for a record that is broken.
    """
    known = {version.number: version for version in registry.versions()}
    link: Version | None = registry.named(uri)
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
    """Read a record kept as a JSON object; an absent one is empty."""
    try:
        said = json.loads(text or "{}")
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise RegistryError(
            f"{version.uri}: {name} in the registry is no JSON object; register the model again"
        )
    return said

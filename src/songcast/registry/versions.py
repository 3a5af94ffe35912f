"""Read the versions of the registered model."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from songcast.errors import RegistryError
from songcast.registry.aliases import CHAMPION, NAME, all_aliases, get_alias
from songcast.registry.comparison import Entry
from songcast.tracking.run_data import KIND, WEIGHTS
from songcast.tracking.store import clear_errors, connect, tracking_uri

MEASURED, RIDGE = "songcast.evaluation", "songcast.ridge"
PARAMS, SEEDS = "songcast.params", "songcast.seeds"
PARENT_WEIGHTS, PARENT_VERSION = "songcast.parent_weights_sha256", "songcast.parent_version"
URI = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")


@dataclass(frozen=True, kw_only=True)
class Version:
    """One registered version.

    ``created_ms``: since 1970. ``evaluation``, ``ridge``: its numbers and those of ridge on the
    same passages, see ``comparison.Entry``; empty if unknown. ``source``: where MLflow keeps its
    files. ``tags``: its lineage.
    """

    number: int
    kind: str
    weights_sha256: str
    run_id: str
    source: str
    aliases: tuple[str, ...]
    created_ms: int
    evaluation: Entry
    ridge: Entry
    tags: Mapping[str, str]

    @property
    def uri(self) -> str:
        """The URI of the version, such as ``models:/songcast/3``."""
        return f"models:/{NAME}/{self.number}"


def list_versions() -> list[Version]:
    """Return all versions, newest first."""
    uri = tracking_uri()
    with clear_errors(uri):
        client = connect(uri)
        aliases = all_aliases(client)
        found = [_version(v, aliases) for v in search(client)]
    return sorted(found, key=lambda version: -version.number)


def get_version(number: int) -> Version:
    """Return one version. Raises ``RegistryError`` if it does not exist."""
    for version in list_versions():
        if version.number == number:
            return version
    raise RegistryError(f"models:/{NAME}/{number}: no such version; `songcast models` lists them")


def find_version(uri: str) -> Version:
    """Return the version of ``models:/songcast@ALIAS`` or ``models:/songcast/N``.

    Raises ``RegistryError`` for another text, an unused alias or an unknown version.
    """
    match = URI.fullmatch(uri)
    if match is None or match["name"] != NAME:
        raise RegistryError(
            f"{uri}: not a model of this registry: write models:/{NAME}@{CHAMPION} "
            f"or models:/{NAME}/1"
        )
    if not match["alias"]:
        return get_version(int(match["version"]))
    number = get_alias(match["alias"])
    if number is None:
        raise RegistryError(
            f"{uri}: no version has the alias {match['alias']!r} yet: `make run` "
            "registers models, `songcast models` lists them"
        )
    return get_version(number)


def search(client: Any) -> list[Any]:
    """Return MLflow's records of all versions, from all pages, oldest first."""
    found: list[Any] = []
    token = None
    while True:
        page = client.search_model_versions(f"name = '{NAME}'", page_token=token)
        found += page
        token = page.token
        if not token:
            return sorted(found, key=lambda v: int(v.version))


def _version(record: Any, aliases: Mapping[str, int]) -> Version:
    number = int(record.version)
    return Version(
        number=number,
        kind=record.tags.get(KIND, "unknown"),
        weights_sha256=record.tags.get(WEIGHTS, ""),
        run_id=record.run_id or "",
        source=record.source,
        aliases=tuple(sorted(alias for alias, target in aliases.items() if target == number)),
        created_ms=int(record.creation_timestamp),
        evaluation=json.loads(record.tags.get(MEASURED, "{}")),
        ridge=json.loads(record.tags.get(RIDGE, "{}")),
        tags={k: v for k, v in record.tags.items() if k not in (MEASURED, RIDGE)},
    )

"""Read the versions of the registered model."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from songcast.errors import RegistryError
from songcast.registry.aliases import CHAMPION, NAME, all_aliases
from songcast.registry.comparison import Entry
from songcast.tracking.embedded import database, read_versions
from songcast.tracking.run_data import KIND, WEIGHTS
from songcast.tracking.store import clear_errors, connect, tracking_uri

MEASURED, RIDGE = "songcast.evaluation", "songcast.ridge"
PARAMS, SEEDS = "songcast.params", "songcast.seeds"
PARENT_WEIGHTS, PARENT_VERSION = "songcast.parent_weights_sha256", "songcast.parent_version"
URI = re.compile(r"models:/(?P<name>[^/@'\"]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")


@dataclass(frozen=True, kw_only=True)
class Version:
    """One registered version.

    ``name``: the registered model. ``created_ms``: since 1970. ``evaluation``, ``ridge``: its
    numbers and those of ridge on the same passages, see ``comparison.Entry``; empty if unknown.
    ``source``: where MLflow keeps its files. ``tags``: its lineage.
    """

    name: str = NAME
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
        return f"models:/{self.name}/{self.number}"


def list_versions(name: str = NAME) -> list[Version]:
    """Return all versions of a registered model, newest first; none where there is no store."""
    return sorted(_read(name)[0], key=lambda version: -version.number)


def get_alias(alias: str) -> int | None:
    """Return the version of songcast that has the alias, None if no version has it."""
    return _read(NAME)[1].get(alias)


def get_version(number: int) -> Version:
    """Return one version. Raises ``RegistryError`` if it does not exist."""
    return find_version(f"models:/{NAME}/{number}")


def find_version(uri: str) -> Version:
    """Return the version of ``models:/songcast@ALIAS`` or ``models:/songcast/N``, or another model.

    Raises ``RegistryError`` for another text, an unused alias or an unknown version.
    """
    match = URI.fullmatch(uri)
    if match is None:
        raise RegistryError(
            f"{uri}: not a registered model: write models:/{NAME}@{CHAMPION} or models:/{NAME}/1"
        )
    versions, aliases = _read(match["name"])
    number = aliases.get(match["alias"]) if match["alias"] else int(match["version"])
    for version in versions:
        if version.number == number:
            return version
    if match["alias"]:
        raise RegistryError(
            f"{uri}: no version has the alias {match['alias']!r} yet: `make run` "
            "registers models, `songcast models` lists them"
        )
    raise RegistryError(f"{uri}: no such version; `songcast models` lists them")


def _read(name: str) -> tuple[list[Version], Mapping[str, int]]:
    """Return the versions and the aliases of a registered model, without MLflow if possible."""
    uri = tracking_uri()
    with clear_errors(uri):
        file = database(uri)
        if file:
            records, aliases = read_versions(file, name)
        else:
            client = connect(uri)
            records, aliases = search(client, name), all_aliases(client, name)
        return [_version(name, record, aliases) for record in records], aliases


def search(client: Any, name: str = NAME) -> list[Any]:
    """Return MLflow's records of all versions, from all pages, oldest first."""
    found: list[Any] = []
    token = None
    while True:
        page = client.search_model_versions(f"name = '{name}'", page_token=token)
        found += page
        token = page.token
        if not token:
            return sorted(found, key=lambda v: int(v.version))


def _version(name: str, record: Any, aliases: Mapping[str, int]) -> Version:
    number = int(record.version)
    return Version(
        name=name,
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

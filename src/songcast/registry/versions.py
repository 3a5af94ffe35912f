"""The registered model: its versions with their lineage, and its aliases."""

import hashlib
import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from songcast.errors import RegistryError
from songcast.registry.comparison import Entry
from songcast.tracking.embedded import database, local_path, read_versions
from songcast.tracking.lineage import ORIGIN
from songcast.tracking.run_data import KIND
from songcast.tracking.store import clear_errors, connect, import_mlflow, tracking_uri

NAME = "songcast"
CHAMPION, CHALLENGER = "champion", "challenger"
NO_MODEL = "no model is registered yet: `make demo` or `make run` registers models"
URI = re.compile(r"models:/(?P<name>[^/@'\"]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")
# The record of a version, an artifact beside its model, and the tag with its digest.
LINEAGE, LINEAGE_SHA256 = "lineage.json", "songcast.lineage_sha256"
# Tags of versions that songcast 0.2.0 registered, which have no such digest.
MEASURED, RIDGE = "songcast.evaluation", "songcast.ridge"


@dataclass(frozen=True, kw_only=True)
class Version:
    """One registered version.

    ``name``: the registered model. ``created_ms``: since 1970. ``source``: where MLflow keeps its
    files. ``is_run_deleted``: its run was deleted in MLflow (known of the embedded store only).
    """

    name: str = NAME
    number: int
    kind: str
    run_id: str
    source: str
    aliases: tuple[str, ...]
    created_ms: int
    tags: Mapping[str, str]
    is_run_deleted: bool = False

    @property
    def uri(self) -> str:
        """The URI of the version, such as ``models:/songcast/3``."""
        return f"models:/{self.name}/{self.number}"

    @cached_property
    def lineage(self) -> Mapping[str, Any]:
        """The content of lineage.json, read at first use. Raises ``RegistryError``.

        ``evaluation`` and ``ridge``: its numbers and those of ridge on the same passages, see
        ``comparison.Entry``. ``weights_sha256``, ``parent_weights_sha256``, ``parent_version``,
        ``params``, ``seeds``, ``songs``, and the keys of ``tracking.lineage.ORIGIN``. Unknown
        values are absent.
        """
        expected = self.tags.get(LINEAGE_SHA256)
        if expected is None:
            return _from_tags(self.uri, self.tags)
        text = read_attached(self, LINEAGE) or ""
        if hashlib.sha256(text.encode()).hexdigest() != expected:
            raise RegistryError(
                f"{self.uri}: {LINEAGE} is missing or altered (sha256 differs): restore the "
                "artifacts, or run `dvc repro register`"
            )
        record: dict[str, Any] = json.loads(text)
        return record

    @property
    def evaluation(self) -> Entry:
        """Its numbers on held-out passages; empty if unknown."""
        return self.lineage.get("evaluation") or {}

    @property
    def ridge(self) -> Entry:
        """Those of ridge on the same passages."""
        return self.lineage.get("ridge") or {}

    @property
    def weights_sha256(self) -> str:
        """The digest of its weights, see ``bundle.weights_sha256``."""
        return str(self.lineage.get("weights_sha256") or "")


def _from_tags(uri: str, tags: Mapping[str, str]) -> dict[str, Any]:
    texts = ("weights_sha256", "parent_weights_sha256", "parent_version", *ORIGIN)
    record: dict[str, Any] = {k: tags[f"songcast.{k}"] for k in texts if f"songcast.{k}" in tags}
    try:
        for key in ("evaluation", "ridge", "params", "seeds", "git_dirty"):
            if f"songcast.{key}" in tags:
                record[key] = json.loads(tags[f"songcast.{key}"])
    except ValueError:
        raise RegistryError(f"{uri}: its tag songcast.{key} is not valid JSON") from None
    return record


def list_versions() -> list[Version]:
    """Return all versions, newest first; none where there is no store."""
    return sorted(read_registry()[0], key=lambda version: -version.number)


def get_alias(alias: str) -> int | None:
    """Return the version of songcast that has the alias, None if no version has it."""
    return read_registry()[1].get(alias)


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
    versions, aliases = read_registry(match["name"])
    if not versions:
        raise RegistryError(f"{uri}: {NO_MODEL}")
    number = aliases.get(match["alias"]) if match["alias"] else int(match["version"])
    for version in versions:
        if version.number == number:
            return version
    if match["alias"]:
        raise RegistryError(
            f"{uri}: no version has the alias {match['alias']!r} yet: `make run` registers models; "
            "`songcast summary` says why the gate gave none the alias"
        )
    raise RegistryError(f"{uri}: no such version; `songcast models` lists them")


def read_registry(name: str = NAME) -> tuple[list[Version], Mapping[str, int]]:
    """Return the versions and the aliases of a registered model, without MLflow if possible.

    Both are empty where there is no store or model. Raises ``TrackingError``.
    """
    uri = tracking_uri()
    with clear_errors(uri):
        file = database(uri)
        if file:
            records, aliases = read_versions(file, name)
        else:
            client = connect(uri)
            model = registered_model(client, name)
            aliases = {k: int(number) for k, number in model.aliases.items()} if model else {}
            records = [
                {
                    "number": int(found.version),
                    "run_id": found.run_id or "",
                    "source": found.source,
                    "created_ms": int(found.creation_timestamp),
                    "tags": found.tags,
                }
                for found in client.search_model_versions(f"name = '{name}'")  # up to 10 000
            ]
    versions = [
        Version(
            name=name,
            kind=record["tags"].get(KIND, "unknown"),
            aliases=tuple(sorted(a for a, number in aliases.items() if number == record["number"])),
            **record,
        )
        for record in records
    ]
    return versions, aliases


def repository(version: Version) -> Any:
    """Return MLflow's artifact repository of the version's files."""
    import_mlflow()
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    uri = tracking_uri()
    return get_artifact_repository(version.source, tracking_uri=uri, registry_uri=uri)


def attach(version: Version, name: str, text: str) -> None:
    """Store a text file beside the version's model, replacing an older one."""
    with clear_errors(tracking_uri()), tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / name
        path.write_text(text, encoding="utf-8")
        repository(version).log_artifact(str(path))


def read_attached(version: Version, name: str) -> str | None:
    """Return a file that ``attach`` wrote, None if the version has no such file."""
    with clear_errors(tracking_uri()), tempfile.TemporaryDirectory() as scratch:
        folder = local_path(version.source)
        if folder:
            file = folder / name
            return file.read_text(encoding="utf-8") if file.is_file() else None
        files = repository(version)
        if name not in (info.path for info in files.list_artifacts(None)):
            return None
        return Path(files.download_artifacts(name, scratch)).read_text(encoding="utf-8")


def set_alias(client: Any, alias: str, number: int) -> None:
    """Give the alias to version ``number``; ``promotion`` does so for the champion."""
    if get_alias(alias) != number:
        client.set_registered_model_alias(NAME, alias, str(number))


def registered_model(client: Any, name: str = NAME) -> Any:
    """Return the registered model with its tags and aliases, None before the first version."""
    found = client.search_registered_models(f"name = '{name}'")
    return found[0] if found else None


def ensure_model(client: Any) -> None:
    """Create the registered model if it does not exist."""
    from mlflow.exceptions import MlflowException

    if registered_model(client):
        return
    try:
        client.create_registered_model(
            NAME, description="Learns songs from their raw amplitude and predicts what comes next."
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":  # by another client of the server
            raise

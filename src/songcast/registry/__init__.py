"""The registered model ``songcast``: its versions and aliases.

A version is known by its weights' sha256: the same weights are registered once. Its numbers on
unseen passages, and where it came from, are kept with it as tags, so that it can be judged and
made again with nothing but an MLflow server.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from songcast.bundle import MANIFEST, read_manifest
from songcast.errors import RegistryError
from songcast.files import sha256_of_file
from songcast.registry.comparison import Entry
from songcast.registry.mlflow_model import log_model
from songcast.tracking.evaluation_log import EVALUATION as RUN_EVALUATION
from songcast.tracking.run_data import BUNDLE, MODEL, WEIGHTS
from songcast.tracking.store import as_default, clear_errors, connect, locked, tracking_uri

NAME = "songcast"
CHAMPION, CHALLENGER = "champion", "challenger"
KIND, MEASURED, RIDGE = "songcast.kind", "songcast.evaluation", "songcast.ridge"
PARAMS, SEEDS = "songcast.params", "songcast.seeds"
PARENT_WEIGHTS, PARENT_VERSION = "songcast.parent_weights_sha256", "songcast.parent_version"
LONGEST_DESCRIPTION = 5000
URI = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")


@dataclass(frozen=True, kw_only=True)
class Version:
    """One registered version.

    ``created_ms``: since 1970. ``evaluation``, ``ridge``: its numbers and those of ridge on the
    same passages, see ``comparison.Entry``; empty where unknown. ``source``: where MLflow keeps
    its files. ``tags``: where it came from.
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
        """The name under which it is loaded, such as ``models:/songcast/3``."""
        return f"models:/{NAME}/{self.number}"


def register_bundle(
    run_id: str,
    bundle_dir: Path,
    kind: str,
    metrics: Entry,
    ridge: Entry | None = None,
    tags: Mapping[str, str] | None = None,
) -> int:
    """Log the package ``bundle_dir`` as a model of ``run_id`` and register it; return the version.

    A package that is registered already keeps its version; ``metrics`` and ``ridge`` are brought
    up to date, ``tags`` that are missing are added. ``kind``: train or retrain. ``tags``: where
    it came from, beside the tags of its run. Raises ``RegistryError`` where the run has other
    weights, ``TrackingError`` where the store cannot be reached, ``BundleError`` for a bundle
    that is missing or altered.
    """
    manifest = read_manifest(bundle_dir)
    sha256 = str(manifest["weights_sha256"])
    measured = {MEASURED: _compact(metrics), RIDGE: _compact(ridge or {})}
    uri = tracking_uri()
    with clear_errors(uri), locked(uri):
        client = connect(uri)
        known = {v.tags.get(WEIGHTS): v for v in search(client)}
        parent = manifest.get("parent_weights_sha256")
        proof = sha256_of_file(bundle_dir / MANIFEST)
        tags = {
            **(tags or {}),
            **({PARENT_WEIGHTS: str(parent)} if parent else {}),
            **({PARENT_VERSION: str(known[parent].version)} if parent in known else {}),
        }
        version = next((v for v in search(client) if v.tags.get(BUNDLE) == proof), None)
        if version is not None:
            for key, value in {**tags, **version.tags, **measured}.items():
                if version.tags.get(key) != value:
                    client.set_model_version_tag(NAME, version.version, key, value)
            return int(version.version)
        run = client.get_run(run_id)
        if run.data.tags.get(WEIGHTS) != sha256:
            raise RegistryError(
                f"run {run_id} did not train the weights of {bundle_dir}: "
                "log it again with `make run`"
            )
        with as_default(uri):
            model_id = log_model(client, run_id, kind, bundle_dir, {WEIGHTS: sha256, BUNDLE: proof})
        client.set_tag(run_id, MODEL, model_id)
        ensure_model(client)
        version = client.create_model_version(
            NAME,
            source=client.get_logged_model(model_id).artifact_location,
            run_id=run_id,
            model_id=model_id,
            tags={
                **_origin(run.data.tags),
                **tags,
                KIND: kind,
                WEIGHTS: sha256,
                BUNDLE: proof,
                **measured,
            },
        )
        return int(version.version)


def versions() -> list[Version]:
    """Return all versions, newest first."""
    uri = tracking_uri()
    with clear_errors(uri):
        client = connect(uri)
        names = aliases(client)
        found = [_version(v, names) for v in search(client)]
    return sorted(found, key=lambda v: -v.number)


def version(number: int) -> Version:
    """Return one version. Raises ``RegistryError`` where there is none."""
    for found in versions():
        if found.number == number:
            return found
    raise RegistryError(f"models:/{NAME}/{number}: no such version; `songcast models` lists them")


def named(uri: str) -> Version:
    """Return the version that ``models:/songcast@ALIAS`` or ``models:/songcast/N`` names.

    Raises ``RegistryError`` for another text, an alias that no version carries, no such version.
    """
    match = URI.fullmatch(uri)
    if match is None or match["name"] != NAME:
        raise RegistryError(
            f"{uri}: not a model of this registry: write models:/{NAME}@{CHAMPION} "
            f"or models:/{NAME}/1"
        )
    if not match["alias"]:
        return version(int(match["version"]))
    number = alias(match["alias"])
    if number is None:
        raise RegistryError(
            f"{uri}: no version carries the alias {match['alias']!r} yet: `make run` "
            "registers models, `songcast models` lists them"
        )
    return version(number)


def alias(name: str) -> int | None:
    """Return the version that carries the alias ``name``, None where none does."""
    uri = tracking_uri()
    with clear_errors(uri):
        return aliases(connect(uri)).get(name)


def set_alias(name: str, number: int) -> None:
    """Give the alias ``name`` to version ``number``, taking it from any other.

    The champion moves through ``promotion``, which keeps the history.
    """
    version(number)
    uri = tracking_uri()
    with clear_errors(uri):
        client = connect(uri)
        if aliases(client).get(name) != number:
            client.set_registered_model_alias(NAME, name, str(number))


def set_description(found: Version, text: str) -> None:
    """Set what MLflow's page of the version shows: markdown, cut at the column's width."""
    uri = tracking_uri()
    with clear_errors(uri):
        connect(uri).update_model_version(NAME, str(found.number), text[:LONGEST_DESCRIPTION])


def search(client: Any) -> list[Any]:
    """Return every version as MLflow has it, over all pages, oldest first."""
    found: list[Any] = []
    token = None
    while True:
        page = client.search_model_versions(f"name = '{NAME}'", page_token=token)
        found += page
        token = page.token
        if not token:
            return sorted(found, key=lambda v: int(v.version))


def aliases(client: Any) -> dict[str, int]:
    """Return alias to version; searching versions does not tell aliases."""
    found = registered_model(client)
    return {k: int(v) for k, v in found.aliases.items()} if found else {}


def registered_model(client: Any) -> Any:
    """Return the registered model with its tags and aliases, None before the first version."""
    found = client.search_registered_models(f"name = '{NAME}'")
    return found[0] if found else None


def ensure_model(client: Any) -> None:
    """Create the registered model where there is none."""
    from mlflow.exceptions import MlflowException

    if registered_model(client):
        return
    try:
        client.create_registered_model(
            NAME, description="Learns songs from their raw amplitude and predicts what comes next."
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another client of the server did
            raise


def _version(found: Any, names: Mapping[str, int]) -> Version:
    number = int(found.version)
    return Version(
        number=number,
        kind=found.tags.get(KIND, "unknown"),
        weights_sha256=found.tags.get(WEIGHTS, ""),
        run_id=found.run_id or "",
        source=found.source,
        aliases=tuple(sorted(name for name, target in names.items() if target == number)),
        created_ms=int(found.creation_timestamp),
        evaluation=json.loads(found.tags.get(MEASURED, "{}")),
        ridge=json.loads(found.tags.get(RIDGE, "{}")),
        tags={k: v for k, v in found.tags.items() if k not in (MEASURED, RIDGE)},
    )


def _compact(entry: Entry) -> str:
    """Return an evaluation as a tag: of each song only what versions are compared by.

    MLflow takes 100 000 characters, some 1 500 songs.
    """
    if not entry:
        return "{}"
    songs = {
        slug: {"bits_per_sample": numbers.get("bits_per_sample")}
        for slug, numbers in entry["songs"].items()
    }
    return json.dumps({"summary": entry["summary"], "songs": songs}, sort_keys=True)


def _origin(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tags of a run that say where its model came from."""
    own = ("songcast.stage", MODEL, RUN_EVALUATION)
    return {k: v for k, v in tags.items() if k.startswith("songcast.") and k not in own}

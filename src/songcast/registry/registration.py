"""Register packages: one version for each, with its lineage as an artifact.

A package is registered once, also if the same model was trained again at another time or place:
then the version keeps its first origin. lineage.json suffices to judge it and to build it again.
"""

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from songcast.bundle import MANIFEST, content_sha256, read_manifest
from songcast.errors import RegistryError
from songcast.files import sha256_of_file
from songcast.registry.comparison import Entry
from songcast.registry.mlflow_model import log_model
from songcast.registry.versions import (
    LINEAGE,
    LINEAGE_SHA256,
    NAME,
    Version,
    attach,
    ensure_model,
    get_version,
    list_versions,
)
from songcast.report.results import bits_per_sample, mean_gain_db
from songcast.tracking.embedded import database, set_creator
from songcast.tracking.lineage import ORIGIN, seeds, user
from songcast.tracking.run_data import BUNDLE, KIND, MODEL, WEIGHTS, send_tags
from songcast.tracking.store import as_default, session

LONGEST_DESCRIPTION = 5000
LINK = "mlflow.modelVersions"


def register_bundle(
    run_id: str, bundle: Path, kind: str, metrics: Entry, ridge: Entry | None = None
) -> int:
    """Log the package ``bundle`` as a model of ``run_id`` and register it; return the version.

    A package that is already registered keeps its version and its origin: ``metrics`` and
    ``ridge`` are updated. ``kind``: train or retrain. Raises ``RegistryError`` if the run has other
    weights, ``TrackingError`` if the store cannot be reached, ``BundleError`` for a bundle that is
    missing or altered.
    """
    manifest = read_manifest(bundle)
    proof = sha256_of_file(bundle / MANIFEST)
    measured = {"evaluation": metrics, "ridge": ridge or {}}
    with session(lock=True) as client, as_default(str(client.tracking_uri)):
        known = list_versions()
        record = {**_record(manifest, kind, known), **measured}
        record["content_sha256"] = content = content_sha256(bundle)
        version = next((v for v in known if v.tags.get(BUNDLE) == proof), None)
        # Trained before, at another time or place.
        version = version or next(reversed(_with("content_sha256", content, known)), None)
        version = version or get_version(_create(client, run_id, bundle, kind, proof))
        earlier: Mapping[str, Any] | None = None
        with contextlib.suppress(RegistryError):  # its record is missing or altered
            earlier = version.lineage
            record = {**record, **earlier, **measured}
        text = json.dumps(record, indent=2, sort_keys=True)
        tags = {LINEAGE_SHA256: hashlib.sha256(text.encode()).hexdigest(), **_headline(measured)}
        if record != earlier:
            attach(version, LINEAGE, text)
        tag_version(client, version, tags)
        return version.number


def tag_version(client: Any, version: Version, tags: Mapping[str, str]) -> None:
    """Set the tags that differ."""
    for key, value in tags.items():
        if version.tags.get(key) != value:
            client.set_model_version_tag(NAME, str(version.number), key, value)


def _create(client: Any, run_id: str, bundle: Path, kind: str, proof: str) -> int:
    """Log the package, unless an interrupted registration did, and create its version."""
    weights = str(read_manifest(bundle, verify=False)["weights_sha256"])
    of_run = client.get_run(run_id).data.tags
    if of_run.get(WEIGHTS) != weights:
        raise RegistryError(
            f"run {run_id} did not train the weights of {bundle}: log it again with `make run`"
        )
    model_id = of_run.get(MODEL)
    if of_run.get(BUNDLE) != proof:
        name = f"{kind}-{weights[:8]}"  # models of several executions are one list in the UI
        model_id = log_model(client, run_id, name, bundle, {WEIGHTS: weights, BUNDLE: proof})
        send_tags(client, run_id, {MODEL: model_id, BUNDLE: proof})
    ensure_model(client)
    tags = {KIND: kind, BUNDLE: proof}
    version = client.create_model_version(
        NAME, source=f"models:/{model_id}", run_id=run_id, model_id=model_id, tags=tags
    )
    # The page of the logged model shows its version, as after ``mlflow.register_model``.
    links = json.loads(client.get_logged_model(model_id).tags.get(LINK, "[]"))
    links += [{"name": NAME, "version": str(version.version)}]
    client.set_logged_model_tags(model_id, {LINK: json.dumps(links)})
    file = database(str(client.tracking_uri))
    if file:
        set_creator(file, NAME, int(version.version), user())
    return int(version.version)


def _record(manifest: Mapping[str, Any], kind: str, known: Sequence[Version]) -> dict[str, Any]:
    """Return the lineage of a package, see ``Version.lineage``; unknown values are absent."""
    origin = manifest.get("provenance") or {}
    params, parent = origin.get("params") or {}, manifest.get("parent_weights_sha256")
    record = {
        "kind": kind,
        "weights_sha256": manifest["weights_sha256"],
        "parent_weights_sha256": parent,
        "parent_version": next((v.number for v in _with("weights_sha256", parent, known)), None),
        "params": params,
        "seeds": seeds(params),
        "songs": origin.get("songs", []),
        **{key: origin.get(key) for key in ORIGIN},
    }
    return {key: value for key, value in record.items() if value is not None}


def _with(key: str, value: str | None, known: Sequence[Version]) -> list[Version]:
    """Return the versions whose record can be read and has this value."""
    found = []
    for version in known if value else ():
        with contextlib.suppress(RegistryError):
            found += [version] if version.lineage.get(key) == value else []
    return found


def _headline(measured: Mapping[str, Entry]) -> dict[str, str]:
    """Return the tags that the registry page shows: bits per sample, and the gain over ridge."""
    own, ridge = (measured[key].get("summary") or {} for key in ("evaluation", "ridge"))
    gain_db = mean_gain_db(own) - mean_gain_db(ridge)
    numbers = {"bits_per_sample": bits_per_sample(own), "gain_over_ridge_db": gain_db}
    return {f"songcast.{key}": f"{value:.4g}" for key, value in numbers.items()}


def set_description(version: Version, text: str) -> None:
    """Set the markdown that MLflow shows for the version, cut to the width of its column."""
    with session() as client:
        client.update_model_version(NAME, str(version.number), text[:LONGEST_DESCRIPTION])

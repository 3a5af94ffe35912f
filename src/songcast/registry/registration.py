"""Register packages: one version for each, with its evaluation and lineage as tags.

A package is registered once, also if the same model was trained again at another time or place:
then the version keeps its first origin. The tags suffice to judge it and to build it again.
"""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from songcast.bundle import MANIFEST, content_sha256, read_manifest
from songcast.errors import BundleError, RegistryError
from songcast.files import sha256_of_file
from songcast.registry.aliases import NAME, ensure_model
from songcast.registry.comparison import Entry
from songcast.registry.downloads import resolve
from songcast.registry.mlflow_model import log_model
from songcast.registry.versions import (
    MEASURED,
    PARENT_VERSION,
    PARENT_WEIGHTS,
    RIDGE,
    Version,
    search,
)
from songcast.tracking.evaluation_log import EVALUATION as RUN_EVALUATION
from songcast.tracking.run_data import BUNDLE, KIND, MODEL, WEIGHTS, send_tags
from songcast.tracking.store import as_default, clear_errors, connect, locked, tracking_uri

LONGEST_DESCRIPTION = 5000
LINK = "mlflow.modelVersions"


def register_bundle(
    run_id: str,
    bundle: Path,
    kind: str,
    metrics: Entry,
    ridge: Entry | None = None,
    tags: Mapping[str, str] | None = None,
) -> int:
    """Log the package ``bundle`` as a model of ``run_id`` and register it; return the version.

    A package that is already registered keeps its version: ``metrics`` and ``ridge`` are updated,
    missing ``tags`` are added. ``kind``: train or retrain. ``tags``: added to those of the run.
    Raises ``RegistryError`` if the run has other weights, ``TrackingError`` if the store cannot
    be reached, ``BundleError`` for a bundle that is missing or altered.
    """
    manifest = read_manifest(bundle)
    sha256 = str(manifest["weights_sha256"])
    proof = sha256_of_file(bundle / MANIFEST)
    measured = {MEASURED: _compact(metrics), RIDGE: _compact(ridge or {})}
    uri = tracking_uri()
    with clear_errors(uri), locked(uri), as_default(uri):
        client = connect(uri)
        records = search(client)
        tags = {**(tags or {}), **_parent_tags(manifest, records)}
        known = next((v for v in records if v.tags.get(BUNDLE) == proof), None)
        if known is None:
            known = _trained_before(bundle, [v for v in records if v.tags.get(WEIGHTS) == sha256])
        if known is not None:
            for key, value in {**tags, **known.tags, **measured}.items():
                if known.tags.get(key) != value:
                    client.set_model_version_tag(NAME, known.version, key, value)
            return int(known.version)
        of_run = client.get_run(run_id).data.tags
        if of_run.get(WEIGHTS) != sha256:
            raise RegistryError(
                f"run {run_id} did not train the weights of {bundle}: log it again with `make run`"
            )
        model_id = of_run.get(MODEL)
        if of_run.get(BUNDLE) != proof:
            name = f"{kind}-{sha256[:8]}"  # models of several executions are one list in the UI
            model_id = log_model(client, run_id, name, bundle, {WEIGHTS: sha256, BUNDLE: proof})
            send_tags(client, run_id, {MODEL: model_id, BUNDLE: proof})
        ensure_model(client)
        identity = {KIND: kind, WEIGHTS: sha256, BUNDLE: proof}
        version = client.create_model_version(
            NAME,
            source=f"models:/{model_id}",
            run_id=run_id,
            model_id=model_id,
            tags={**_lineage(of_run), **tags, **identity, **measured},
        )
        _link(client, model_id, version.version)
        return int(version.version)


def _link(client: Any, model_id: str, number: str) -> None:
    """Let the page of the logged model show its version, as ``mlflow.register_model`` does."""
    known = json.loads(client.get_logged_model(model_id).tags.get(LINK, "[]"))
    entry = {"name": NAME, "version": str(number)}
    client.set_logged_model_tags(model_id, {LINK: json.dumps([*known, entry])})


def _trained_before(bundle: Path, records: list[Any]) -> Any:
    """Return the first record whose package differs from ``bundle`` at most in its provenance."""
    content = content_sha256(bundle)
    for record in records:
        with contextlib.suppress(BundleError):  # its files are missing or altered
            if content_sha256(resolve(f"models:/{NAME}/{record.version}")) == content:
                return record
    return None


def set_description(version: Version, text: str) -> None:
    """Set the markdown that MLflow shows for the version, cut to the width of its column."""
    uri = tracking_uri()
    with clear_errors(uri):
        connect(uri).update_model_version(NAME, str(version.number), text[:LONGEST_DESCRIPTION])


def _parent_tags(manifest: Mapping[str, Any], records: list[Any]) -> dict[str, str]:
    """Return the tags that name the parent of a retrained model, and its version if registered."""
    weights = manifest.get("parent_weights_sha256")
    if not weights:
        return {}
    parents = [str(v.version) for v in records if v.tags.get(WEIGHTS) == weights]
    version = {PARENT_VERSION: parents[-1]} if parents else {}
    return {PARENT_WEIGHTS: str(weights), **version}


def _compact(entry: Entry) -> str:
    """Return an evaluation as a tag: of each song only the number that versions are compared by.

    MLflow accepts 100 000 characters, about 1 500 songs.
    """
    if not entry:
        return "{}"
    songs = {
        slug: {"bits_per_sample": numbers.get("bits_per_sample")}
        for slug, numbers in entry["songs"].items()
    }
    return json.dumps({"summary": entry["summary"], "songs": songs}, sort_keys=True)


def _lineage(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tags of a run that describe the lineage of its model."""
    own = ("songcast.stage", MODEL, RUN_EVALUATION)
    return {k: v for k, v in tags.items() if k.startswith("songcast.") and k not in own}

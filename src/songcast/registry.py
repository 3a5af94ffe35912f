"""The registered model ``songcast``: versions, aliases, and which version may be served.

A version is known by its weights' sha256: the same weights are registered once. Its numbers on
unseen passages are kept with it, so that a later candidate can be compared with it on any
MLflow server.
"""

import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from songcast.bundle import MANIFEST, read_manifest
from songcast.errors import BundleError, RegistryError
from songcast.gate import Gate, Numbers, gate, not_better
from songcast.stage_log import measured
from songcast.tracking import EVALUATION as RUN_EVALUATION
from songcast.tracking_send import MODEL, WEIGHTS
from songcast.tracking_store import clear_errors, connect, database, locked, tracking_uri

NAME = "songcast"
CHAMPION, CHALLENGER = "champion", "challenger"
KIND, MEASURED = "songcast.kind", "songcast.evaluation"
URI = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")


@dataclass(frozen=True, kw_only=True)
class Version:
    """One registered version. ``created_ms``: since 1970. ``evaluation``: see ``measured``."""

    number: int
    kind: str
    weights_sha256: str
    run_id: str
    aliases: tuple[str, ...]
    created_ms: int
    evaluation: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """``challenger``, ``champion``: version numbers after the gate; champion may be None."""

    challenger: int
    champion: int | None
    gate: Gate


def register_bundle(
    run_id: str,
    bundle_dir: Path,
    kind: str,
    metrics: Mapping[str, Any],
    tags: Mapping[str, str] | None = None,
) -> int:
    """Register the model logged by ``run_id`` and return its version.

    Weights that are registered already keep their version; only ``metrics`` (see ``measured``)
    are brought up to date. ``kind``: train or retrain. Raises ``RegistryError`` where the run
    has no model, ``TrackingError`` where the store cannot be reached, ``BundleError`` for a
    bundle that is missing or altered.
    """
    sha256 = str(read_manifest(bundle_dir)["weights_sha256"])
    evaluation = json.dumps(metrics, sort_keys=True)
    uri = tracking_uri()
    with clear_errors(uri), locked(uri):
        client = connect(uri)
        for version in _search(client):
            if version.tags.get(WEIGHTS) == sha256:
                if version.tags.get(MEASURED) != evaluation:
                    client.set_model_version_tag(NAME, version.version, MEASURED, evaluation)
                return int(version.version)
        run = client.get_run(run_id)
        model_id = run.data.tags.get(MODEL)
        if model_id is None or run.data.tags.get(WEIGHTS) != sha256:
            raise RegistryError(
                f"run {run_id} carries no model with the weights of {bundle_dir}: "
                "log it again with `make run`"
            )
        _ensure_model(client)
        version = client.create_model_version(
            NAME,
            source=client.get_logged_model(model_id).artifact_location,
            run_id=run_id,
            model_id=model_id,
            tags={
                **_origin(run.data.tags),
                **(tags or {}),
                KIND: kind,
                WEIGHTS: sha256,
                MEASURED: evaluation,
            },
        )
        return int(version.version)


def versions() -> list[Version]:
    """Return all versions, newest first."""
    uri = tracking_uri()
    with clear_errors(uri):
        client = connect(uri)
        aliases = _aliases(client)
        found = [_version(v, aliases) for v in _search(client)]
    return sorted(found, key=lambda v: -v.number)


def version(number: int) -> Version:
    """Return one version. Raises ``RegistryError`` where there is none."""
    for found in versions():
        if found.number == number:
            return found
    raise RegistryError(f"models:/{NAME}/{number}: no such version; `songcast models` lists them")


def alias(name: str) -> int | None:
    """Return the version that carries the alias ``name``, None where none does."""
    uri = tracking_uri()
    with clear_errors(uri):
        return _aliases(connect(uri)).get(name)


def set_alias(name: str, number: int) -> None:
    """Give the alias ``name`` to version ``number``, taking it from any other."""
    version(number)
    uri = tracking_uri()
    with clear_errors(uri):
        client = connect(uri)
        if _aliases(client).get(name) != number:
            client.set_registered_model_alias(NAME, name, str(number))


def decide(evaluation: Mapping[str, Any], numbers: Mapping[str, int]) -> Decision:
    """Choose the challenger among ``numbers`` (kind to version) and let the gate judge it.

    The challenger has the lower mean bits per sample on unseen passages. It becomes champion
    when it passes the gate, which includes beating the present champion if that is another
    version. Sets both aliases; deciding again changes nothing.
    """
    entries = {kind: measured(evaluation, kind) for kind in numbers}
    uri = tracking_uri()
    best = min(numbers, key=lambda kind: (_bits(entries[kind]["summary"]), numbers[kind]))
    challenger = numbers[best]
    with clear_errors(uri), locked(uri):  # two processes must not both see the old champion
        champion = alias(CHAMPION)
        verdict = _judge(evaluation, entries[best], challenger, champion)
        set_alias(CHALLENGER, challenger)
        if verdict.passed:
            set_alias(CHAMPION, challenger)
            champion = challenger
    return Decision(challenger=challenger, champion=champion, gate=verdict)


def resolve(uri: str) -> Path:
    """Return the local bundle folder of ``models:/songcast@ALIAS`` or ``models:/songcast/N``.

    From a server it is downloaded once, into the user's cache. The weights' sha256 is verified
    each time. Raises ``RegistryError`` where there is no such version, ``BundleError`` where
    its files are missing or altered, ``TrackingError`` where the store cannot be reached.
    """
    match = URI.fullmatch(uri)
    if match is None or match["name"] != NAME:
        raise RegistryError(
            f"{uri}: not a model of this registry: write models:/{NAME}@{CHAMPION} "
            f"or models:/{NAME}/1"
        )
    if match["alias"]:
        number = alias(match["alias"])
        if number is None:
            raise RegistryError(
                f"{uri}: no version carries the alias {match['alias']!r} yet: `make run` "
                "registers models, `songcast models` lists them"
            )
    else:
        number = int(match["version"])
    found = version(number)
    folder = _fetch(found)
    if read_manifest(folder)["weights_sha256"] != found.weights_sha256:
        raise BundleError(
            f"{uri}: the weights in {folder} are not those that were registered "
            "(sha256 differs): restore the artifacts"
        )
    return folder


def _judge(
    evaluation: Mapping[str, Any], entry: Mapping[str, Any], challenger: int, champion: int | None
) -> Gate:
    ridge = measured(evaluation, "ridge")
    if champion is None or champion == challenger:
        return gate(entry["summary"], ridge["summary"], None)
    theirs = version(champion).evaluation
    if set(theirs.get("songs", ())) == set(entry["songs"]):
        return gate(entry["summary"], ridge["summary"], theirs["summary"])
    # The champion was measured on other songs: only what both have heard can be compared.
    common = sorted(set(theirs.get("songs", ())) & set(entry["songs"]))
    alone = gate(entry["summary"], ridge["summary"], None)
    mine, other = ({"bits_per_sample": _mean_bits(e, common)} for e in (entry, theirs))
    name = f"champion {champion} on the songs that both were measured on ({len(common)})"
    reasons = (*alone.reasons, *not_better(mine, other, name))
    return Gate(passed=not reasons, reasons=reasons)


def _bits(numbers: Numbers) -> float:
    """Return bits per sample for ranking; what is not a number ranks last."""
    value = numbers.get("bits_per_sample")
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else math.inf


def _mean_bits(entry: Mapping[str, Any], songs: list[str]) -> float:
    bits = [float(entry["songs"][slug]["bits_per_sample"]) for slug in songs]
    return math.fsum(bits) / len(bits) if bits else math.nan


def _search(client: Any) -> list[Any]:
    """Return every version, over all pages, oldest first."""
    found: list[Any] = []
    token = None
    while True:
        page = client.search_model_versions(f"name = '{NAME}'", page_token=token)
        found += page
        token = page.token
        if not token:
            return sorted(found, key=lambda v: int(v.version))


def _version(found: Any, aliases: Mapping[str, int]) -> Version:
    number = int(found.version)
    return Version(
        number=number,
        kind=found.tags.get(KIND, "unknown"),
        weights_sha256=found.tags.get(WEIGHTS, ""),
        run_id=found.run_id or "",
        aliases=tuple(sorted(name for name, target in aliases.items() if target == number)),
        created_ms=int(found.creation_timestamp),
        evaluation=json.loads(found.tags.get(MEASURED, "{}")),
    )


def _aliases(client: Any) -> dict[str, int]:
    """Return alias to version; searching versions does not tell aliases."""
    found = client.search_registered_models(f"name = '{NAME}'")
    return {k: int(v) for k, v in found[0].aliases.items()} if found else {}


def _ensure_model(client: Any) -> None:
    from mlflow.exceptions import MlflowException

    if client.search_registered_models(f"name = '{NAME}'"):
        return
    try:
        client.create_registered_model(
            NAME, description="Learns songs from their raw amplitude and predicts what comes next."
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another client of the server did
            raise


def _origin(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tags of a run that say where its model came from."""
    own = ("songcast.stage", MODEL, RUN_EVALUATION)
    return {k: v for k, v in tags.items() if k.startswith("songcast.") and k not in own}


def _fetch(found: Version) -> Path:
    """Return the bundle folder inside the version's artifacts, downloaded if need be."""
    uri = tracking_uri()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "songcast"
    kept = cache / found.weights_sha256
    if database(uri) is None and (kept / MANIFEST).is_file():
        return kept
    with clear_errors(uri):
        client = connect(uri)
        from mlflow.artifacts import download_artifacts

        source = f"{client.get_model_version_download_uri(NAME, str(found.number))}/artifacts"
        if database(uri):  # in place, nothing is copied
            return _only_bundle(Path(download_artifacts(source, tracking_uri=uri)))
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            bundle = _only_bundle(
                Path(download_artifacts(source, dst_path=scratch, tracking_uri=uri))
            )
            if not kept.exists():
                shutil.move(bundle, kept)
    return kept


def _only_bundle(artifacts: Path) -> Path:
    """Return the folder with bundle.json below a model's artifacts."""
    for manifest in sorted(artifacts.glob(f"*/{MANIFEST}")) or sorted(artifacts.glob(MANIFEST)):
        return manifest.parent
    raise BundleError(f"{artifacts}: the registered model carries no {MANIFEST}: register it again")

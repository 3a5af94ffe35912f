"""The contents of a run: params, metrics, files, the data set, the mark that it is complete."""

import hashlib
import json
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from songcast.bundle import read_manifest
from songcast.data.corpus import TEST, TRAIN, VALIDATION, read_index
from songcast.errors import CorpusError
from songcast.files import PREPARED
from songcast.tracking import lineage

WEIGHTS, KIND = "songcast.weights_sha256", "songcast.kind"
# The packaged model of a run, and the sha256 of its bundle.json; registration sets both.
MODEL, BUNDLE = "songcast.model_id", "songcast.bundle_sha256"
BATCH = 100  # MLflow accepts at most 100 params and 1000 metrics in one request
LONGEST_PARAM = 6000
# The names of the datasets.
SPLITS = {TRAIN: "train", VALIDATION: "validation", TEST: "held-out"}

Row = Mapping[str, float]


def flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested params as ``{"a.b": "value"}``.

    >>> flatten({"seed": 1, "lstm": {"units": 96}})
    {'seed': '1', 'lstm.units': '96'}
    """
    flat: dict[str, str] = {}
    for key, value in params.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)[:LONGEST_PARAM]
    return flat


def send_params(client: Any, run_id: str, params: Mapping[str, Any]) -> None:
    """Log params; those already logged stay, because MLflow refuses to change one."""
    from mlflow.entities import Param

    known = client.get_run(run_id).data.params
    new = [Param(k, v) for k, v in flatten(params).items() if k not in known]
    for start in range(0, len(new), BATCH):
        client.log_batch(run_id, params=new[start : start + BATCH])


def send_metrics(
    client: Any,
    run_id: str | None,
    rows: Iterable[Row],
    model_id: str | None = None,
    split: str | None = None,
) -> None:
    """Log the numbers of rows that each have a ``step``, also for the packaged model ``model_id``.

    ``split``: the part of the songs on which they were measured.
    """
    from mlflow.entities import Metric

    measured: dict[str, Any] = {"model_id": model_id} if model_id else {}
    dataset = datasets().get(split) if model_id and split else None
    if dataset:
        measured |= {"dataset_name": dataset.name, "dataset_digest": dataset.digest}
    now = time.time_ns() // 1_000_000
    metrics = [
        Metric(key, float(value), now, int(row["step"]), **measured)
        for row in rows
        for key, value in row.items()
        if key != "step"
    ]
    for start in range(0, len(metrics), 10 * BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + 10 * BATCH])


def send_file(client: Any, run_id: str | None, path: Path, folder: str | None) -> None:
    """Log a file, or all of a directory, into ``folder`` of the run's artifacts."""
    if path.is_dir():
        client.log_artifacts(run_id, str(path), folder)
    else:
        client.log_artifact(run_id, str(path), folder)


def send_tags(client: Any, run_id: str | None, tags: Mapping[str, Any]) -> None:
    """Set tags in one request."""
    from mlflow.entities import RunTag

    client.log_batch(run_id, tags=[RunTag(k, str(v)) for k, v in tags.items()])


def send_bundle(client: Any, run_id: str | None, bundle: Path) -> None:
    """Log the files of a bundle and mark the run as complete."""
    manifest = read_manifest(bundle)
    send_file(client, run_id, bundle, "bundle")
    origin = lineage.origin_tags(manifest.get("provenance") or {})
    identity = {KIND: manifest["kind"], WEIGHTS: manifest["weights_sha256"]}
    # Last, because a finished run with the tag of its weights counts as complete.
    send_tags(client, run_id, {**origin, **identity})


def datasets(exclude: Collection[str] = ()) -> dict[str, Any]:
    """Return the prepared songs as MLflow datasets, by split; none without prepared songs.

    ``exclude``: slugs or file names of songs that are not used. The digest covers the songs and
    the borders of their passages.
    """
    from mlflow.entities import Dataset

    folder = lineage.here()
    try:
        _, songs = read_index(folder / PREPARED)
    except CorpusError:
        return {}
    found: dict[str, Any] = {}
    for split, name in SPLITS.items():
        kept = [s for s in songs if split in s.splits and not {s.slug, s.source} & {*exclude}]
        if not kept:
            continue
        passages = [(song.slug, song.sha256, *song.splits[split]) for song in kept]
        frames = [stop - start for _, _, start, stop in passages]
        seconds = sum(n / song.sample_rate_hz for n, song in zip(frames, kept, strict=True))
        profile = {
            "num_songs": len(kept),
            "seconds": round(seconds, 3),
            "songs": [song.slug for song in kept],
            "damage": {song.slug: song.damage for song in kept if song.damage},
        }
        source = json.dumps({"uri": "data.dvc", "md5": lineage.data_hash(folder)})
        digest = hashlib.sha256(json.dumps(passages).encode()).hexdigest()[:16]
        found[split] = Dataset(name, digest, "dvc", source, profile=json.dumps(profile))
    return found


def send_datasets(client: Any, run_id: str, stage: str) -> None:
    """Log the prepared songs as inputs of a run: what it learned from, and what measures it."""
    from mlflow.entities import DatasetInput, InputTag

    settings = lineage.params(lineage.here()).get(stage)
    exclude = settings.get("exclude") if isinstance(settings, Mapping) else None
    inputs = [
        DatasetInput(dataset, [InputTag("mlflow.data.context", dataset.name)])
        for split, dataset in datasets(exclude or ()).items()
        if isinstance(settings, Mapping) or split == TEST  # the parent only evaluates
    ]
    if inputs:
        client.log_inputs(run_id, inputs)

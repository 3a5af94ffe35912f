"""The contents of a run: params, metrics, files, the data set, the mark that it is complete."""

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from songcast.bundle import read_manifest
from songcast.data.corpus import INDEX, read_index
from songcast.errors import CorpusError
from songcast.files import PREPARED, sha256_of_file
from songcast.tracking import lineage

WEIGHTS, KIND = "songcast.weights_sha256", "songcast.kind"
# The packaged model of a run, and the sha256 of its bundle.json; registration sets both.
MODEL, BUNDLE = "songcast.model_id", "songcast.bundle_sha256"
BATCH = 100  # MLflow accepts at most 100 params and 1000 metrics in one request
LONGEST_PARAM = 6000
DATASET, LONGEST_DIGEST = "songs", 36

Row = Mapping[str, float]
Point = tuple[str, float, int, int]  # key, value, step, milliseconds since 1970


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


def points_of(rows: Iterable[Row]) -> list[Point]:
    """Return the metrics of rows that each have a ``step``, with the present time."""
    now = time.time_ns() // 1_000_000
    return [
        (key, float(value), int(row["step"]), now)
        for row in rows
        for key, value in row.items()
        if key != "step"
    ]


def send_metrics(
    client: Any, run_id: str | None, points: list[Point], model_id: str | None = None
) -> None:
    """Log metrics in as few requests as possible, also for the packaged model ``model_id``."""
    from mlflow.entities import Metric

    metrics = [Metric(key, value, ms, step, model_id=model_id) for key, value, step, ms in points]
    for start in range(0, len(metrics), 10 * BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + 10 * BATCH])


def logged_points(client: Any, run: Any) -> dict[tuple[str, int], float]:
    """Return the metrics of a run, system metrics excepted: key and step to value."""
    return {
        (key, point.step): point.value
        for key in run.data.metrics
        if not key.startswith("system/")
        for point in client.get_metric_history(run.info.run_id, key)
    }


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
    # Last, because a finished run with this tag counts as complete.
    send_tags(client, run_id, {KIND: manifest["kind"], WEIGHTS: manifest["weights_sha256"]})


def send_dataset(client: Any, run_id: str, context: str) -> None:
    """Log the prepared songs as an input of the run; nothing is logged without prepared songs.

    ``context``: what they are used for. The digest is that of all songs in data.dvc; without a
    data.dvc, that of the list of prepared songs.
    """
    folder = lineage.here()
    try:
        _, songs = read_index(folder / PREPARED)
    except CorpusError:
        return
    from mlflow.entities import Dataset, DatasetInput, InputTag

    digest = lineage.data_hash(folder) or sha256_of_file(folder / PREPARED / INDEX)
    digest = digest[:LONGEST_DIGEST]
    profile = {
        "num_songs": len(songs),
        "seconds": round(sum(song.frames / song.sample_rate_hz for song in songs), 3),
        "songs": [song.slug for song in songs],
        "damage": {song.slug: song.damage for song in songs if song.damage},
    }
    source = json.dumps({"uri": "data.dvc", "md5": digest})
    dataset = Dataset(DATASET, digest, "dvc", source, schema=None, profile=json.dumps(profile))
    client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])])

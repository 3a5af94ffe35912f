"""The songs of a run as MLflow's data set: name, digest, and what is in it."""

import hashlib
import json
from pathlib import Path
from typing import Any

from songcast.files import PREPARED
from songcast.tracking import lineage
from songcast.tracking.parent import here

NAME, LONGEST_DIGEST = "songs", 36


def send_dataset(client: Any, run_id: str, context: str) -> None:
    """Log the prepared songs as an input of the run; nothing where none are prepared.

    ``context``: what they are used for. The digest is the one that data.dvc gives to all songs
    together; without a data.dvc, that of the prepared songs.
    """
    described = _describe(here())
    if described is None:
        return
    from mlflow.entities import Dataset, DatasetInput, InputTag

    digest, profile = described
    source = json.dumps({"uri": "data.dvc", "md5": digest})
    dataset = Dataset(NAME, digest, "dvc", source, schema=None, profile=json.dumps(profile))
    client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])])


def _describe(folder: Path) -> tuple[str, dict[str, Any]] | None:
    """Return digest and profile of the songs in ``folder``."""
    try:
        content = (folder / PREPARED / "songs.json").read_bytes()
        songs = json.loads(content)["songs"]
        seconds = sum(song["frames"] / song["sample_rate_hz"] for song in songs)
        profile = {
            "num_songs": len(songs),
            "seconds": round(seconds, 3),
            "songs": [song["slug"] for song in songs],
        }
    except (OSError, ValueError, KeyError, TypeError):
        return None
    digest = lineage.data_hash(folder) or hashlib.sha256(content).hexdigest()
    return digest[:LONGEST_DIGEST], profile

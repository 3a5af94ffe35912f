"""One parent run for each execution of the pipeline, whose stages are separate processes.

An execution is known by what it computes: params, songs, DVC experiment, and the working folder.
A stage joins the latest parent of its execution, so a pipeline that was stopped and goes on stays
one. Where that parent already holds a finished run of the stage, this is another execution, and
a new parent is made. No file, no server's help: every store tells the same.

A parent is RUNNING while one of its stages is; between two stages it is what the last one was.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

from songcast.files import PARAMS, root
from songcast.tracking import lineage

PARENT, STAGE = "mlflow.parentRunId", "songcast.stage"
PIPELINE = "pipeline"
WORKSPACE, EXECUTION = "songcast.workspace", "songcast.execution"


def here() -> Path:
    """Return the folder that the pipeline runs in: a DVC experiment runs in a copy."""
    return Path.cwd() if (Path.cwd() / "dvc.yaml").is_file() else root()


def execution_tags() -> dict[str, str]:
    """Return the tags that runs of one execution in one folder share."""
    params = here() / PARAMS
    computed = (
        params.read_bytes() if params.is_file() else b"",
        str(lineage.data_hash(here())).encode(),
        os.environ.get("DVC_EXP_NAME", "").encode(),
    )
    return {
        WORKSPACE: _digest(str(here().resolve()).encode()),
        EXECUTION: _digest(*computed),
    }


def find_parent(client: Any, experiment: str, stage: str | None = None) -> str | None:
    """Return the parent run that ``stage`` joins, None where a new one is due.

    ``stage`` None: the latest parent of this execution, whatever it holds.
    """
    found = _search(client, experiment, {STAGE: PIPELINE, **execution_tags()})
    if found and not (stage and _holds_finished(client, experiment, found[0], stage)):
        return found[0]
    return None


def mark_running(client: Any, experiment: str, run_id: str, parent: str) -> None:
    """Mark the parent of ``run_id`` as running, and what was killed here earlier as killed.

    Nobody else could tell of a stage that got SIGKILL. Only one stage runs in a folder at once.
    """
    client.update_run(parent, status="RUNNING")
    dead = _search(client, experiment, {WORKSPACE: execution_tags()[WORKSPACE]}, "RUNNING")
    for other in set(dead) - {run_id, parent}:
        client.set_terminated(other, status="KILLED")


def _holds_finished(client: Any, experiment: str, parent: str, stage: str) -> bool:
    return bool(_search(client, experiment, {STAGE: stage, PARENT: parent}, "FINISHED"))


def _search(
    client: Any, experiment: str, tags: dict[str, str], status: str | None = None
) -> list[str]:
    """Return ids of runs with these tags, newest first."""
    clauses = [f"tags.`{key}` = '{value}'" for key, value in tags.items()]
    clauses += [f"attributes.status = '{status}'"] if status else []
    order = ["attributes.start_time DESC"]
    found = client.search_runs([experiment], " and ".join(clauses), order_by=order)
    return [str(run.info.run_id) for run in found]


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]

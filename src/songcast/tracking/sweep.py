"""Log a sweep to MLflow: one run for the sweep and, below it, one for each trial."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from songcast.tracking.run_data import Row, points_of, send_metrics, send_params
from songcast.tracking.runs import create_run
from songcast.tracking.store import clear_errors, connect, experiment_id, locked, tracking_uri

STAGE, SWEEP, TRIAL = "sweep", "songcast.sweep", "songcast.trial"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One trial of a sweep.

    ``values``: by key of train. ``rows``: one per epoch, ``step`` and metrics. ``failed``: it
    ended with an error.
    """

    name: str
    values: Mapping[str, Any]
    rows: Sequence[Row]
    failed: bool = False

    @property
    def bits_per_sample(self) -> float:
        """The best epoch's, on the validation passages; infinite if no epoch has a number."""
        bits = (row["validation_bits_per_sample"] for row in self.rows)
        return min(filter(math.isfinite, bits), default=math.inf)


def log_sweep(key: str, params: Mapping[str, Any], trials: Sequence[Trial]) -> str:
    """Log the sweep with this ``key`` and its trials; return its run id. Idempotent.

    Raises ``TrackingError`` if the store cannot be reached.
    """
    uri = tracking_uri()
    with clear_errors(uri):
        client = connect(uri)
        experiment = experiment_id(client)
        with locked(uri):
            known = {
                run.data.tags.get(TRIAL, ""): str(run.info.run_id)
                for run in client.search_runs(
                    [experiment],
                    f"tags.`{SWEEP}` = '{key}' and attributes.status != 'RUNNING'",
                    max_results=10_000,
                )
            }
            if "" not in known:
                known[""] = create_run(client, STAGE, {SWEEP: key})
                send_params(client, known[""], params)
                client.set_terminated(known[""], status="FINISHED")
            for trial in trials:
                if trial.name in known:
                    continue
                tags = {SWEEP: key, TRIAL: trial.name}
                run_id = create_run(client, STAGE, tags, known[""], name=trial.name)
                send_params(client, run_id, trial.values)
                send_metrics(client, run_id, points_of(trial.rows))
                client.set_terminated(run_id, status="FAILED" if trial.failed else "FINISHED")
            return known[""]

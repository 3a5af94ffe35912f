"""Where the repository is, and the names of its folders."""

import os
from pathlib import Path

DATA = "data"
PREPARED = "prepared"
MODELS = "models"
METRICS = "metrics"
PLOTS = "plots"
LISTENING = "listening"
REPORT = "report.html"
MLRUNS = "mlruns"
FEATURES = "features"
CHECKPOINTS = "checkpoints"
PARAMS = "params.yaml"


def root() -> Path:
    """Return the repository root, absolute.

    ``DVC_ROOT`` where DVC runs a stage; else the nearest folder from here upwards with a
    dvc.yaml or params.yaml; else the current folder.
    """
    told = os.environ.get("DVC_ROOT")
    if told:
        return Path(told).resolve()
    here = Path.cwd().resolve()
    marks = ("dvc.yaml", PARAMS)
    return next((p for p in (here, *here.parents) if any((p / m).is_file() for m in marks)), here)

"""Log a bundle as an MLflow model from code: signature, example and requirements are explicit."""

import contextlib
import importlib.metadata
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from songcast.bundle import read_history, read_manifest
from songcast.tracking.run_data import flatten, send_metrics

VALIDATION_BITS = "validation_bits_per_sample"
PACKAGE = Path(__file__).parent.parent
# The params of the served model, with their defaults.
DEFAULTS: dict[str, Any] = {
    "task": "forecast",
    "seconds": 5.0,
    "temperature": 1.0,
    "seed": 0,
    "format": "wav",
}
# A song as a client sends it: base64 of a wav with five samples at 16 kHz.
EXAMPLE = "UklGRi4AAABXQVZFZm10IBAAAAABAAEAgD4AAAB9AAACABAAZGF0YQoAAAAAAOgD0AfoAwAA"
# All packages that a forecast imports. MLflow's own inference takes 15 s and is wrong.
REQUIRED = (
    "av",
    "imageio-ffmpeg",
    "mlflow",
    "numba",
    "numpy",
    "pandas",
    "pydub",
    "pyyaml",
    "safetensors",
    "soundfile",
    "soxr",
)


def requirements() -> list[str]:
    """Return ``name==version`` of each package that the model needs, as installed here."""
    found = [f"{name}=={importlib.metadata.version(name)}" for name in REQUIRED]
    # pydub needs it from Python 3.13 on, where the standard library no longer has audioop.
    return [*found, "audioop-lts>=0.2; python_version >= '3.13'"]


def signature() -> Any:
    """Return the signature of the model: one string column ``song``, five params."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array, DataType

    kinds = {str: DataType.string, float: DataType.double, int: DataType.long}
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.string, "song")]),
        outputs=Schema(
            [
                ColSpec(DataType.string, "audio", required=False),
                ColSpec(DataType.string, "format", required=False),
                ColSpec(Array(DataType.double), "prediction_gain_db", required=False),
                ColSpec(DataType.double, "bits_per_sample", required=False),
                ColSpec(DataType.long, "sample_rate_hz"),
            ]
        ),
        params=ParamSchema([ParamSpec(k, kinds[type(v)], v) for k, v in DEFAULTS.items()]),
    )


def log_model(client: Any, run_id: str, name: str, bundle: Path, tags: Mapping[str, str]) -> str:
    """Log ``bundle`` as a model of the run and return the model's id.

    The model contains the source of songcast, so it also works where songcast is not installed.
    Its params are those of the bundle, its metrics those of the best epoch. Call within
    ``tracking.store.as_default``.
    """
    from mlflow.entities import LoggedModelOutput

    run = client.get_run(run_id)
    user = {k: v for k, v in run.data.tags.items() if k == "mlflow.user"}  # "Created by"
    logged = client.create_logged_model(
        run.info.experiment_id,
        name=name,
        source_run_id=run_id,
        tags={**tags, **user},
        params=flatten(read_manifest(bundle).get("params") or {}),
        model_type="forecaster",
    )
    try:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "model"
            _save_model(folder, bundle, name, logged.model_id, run_id)
            client.log_model_artifacts(logged.model_id, str(folder))
        client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
        rows = [row for row in read_history(bundle) if VALIDATION_BITS in row]
        if rows:
            best = min(rows, key=lambda row: row[VALIDATION_BITS])
            for split in ("train", "validation"):
                row = {k: v for k, v in best.items() if k == "step" or k.startswith(f"{split}_")}
                send_metrics(client, run_id, [row], logged.model_id, split)
    except BaseException:
        with contextlib.suppress(Exception):  # the store may be the cause
            client.finalize_logged_model(logged.model_id, "FAILED")
        raise
    client.finalize_logged_model(logged.model_id, "READY")
    return str(logged.model_id)


def _save_model(folder: Path, bundle: Path, name: str, model_id: str, run_id: str) -> None:
    """Write the MLflow model into ``folder``. No file in it holds a path of this machine."""
    import mlflow.pyfunc
    import pandas as pd
    from mlflow.models import Model

    with warnings.catch_warnings():
        # MLflow 3.17 with pandas 3 warns about its own comparisons.
        warnings.simplefilter("ignore")
        mlflow.pyfunc.save_model(
            path=str(folder),
            python_model=str(PACKAGE / "serving" / "scoring.py"),
            artifacts={"bundle": str(bundle)},
            code_paths=[str(PACKAGE)],
            pip_requirements=requirements(),
            signature=signature(),
            input_example=(pd.DataFrame({"song": [EXAMPLE]}), dict(DEFAULTS)),
            mlflow_model=Model(
                artifact_path=name, model_uuid=model_id, run_id=run_id, model_id=model_id
            ),
        )
    # MLflow records where code and bundle were; it reads the copies inside the model.
    definition = folder / "MLmodel"
    text = definition.read_text().replace(str(bundle), f"artifacts/{bundle.name}")
    definition.write_text(text.replace(f"{PACKAGE / 'serving'}/", ""))

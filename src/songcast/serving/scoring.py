"""The registered MLflow model. MLflow runs this file to create the model ("models from code").

Input: one row per song; the string column ``song`` is base64 of an audio file in any format that
songcast reads, or raw int16 samples as JSON (see ``payload``). Output: one row per song with
``audio`` (base64 of a file in ``format``: the predicted song, or the continuation only; null for
the task ``score``), ``prediction_gain_db`` (one number per channel) and ``bits_per_sample`` (null
for the task ``continue``), ``sample_rate_hz``. Invalid input raises an ``MlflowException`` with
INVALID_PARAMETER_VALUE (HTTP 400).
"""

from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel

from songcast.errors import SongcastError
from songcast.serving.champion import load_warm
from songcast.serving.payload import decode_song
from songcast.serving.tasks import TaskParams, run_task


class ScoringModel(PythonModel):
    """Forecasts, continues and scores songs with the bundle of the MLflow model."""

    def load_context(self, context: Any) -> None:
        """Load the bundle and compile, so that the first request is as fast as the others."""
        self.model = load_warm(context.artifacts["bundle"])

    def predict(
        self,
        context: Any,  # noqa: ARG002
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        """Return one row per song; ``model_input`` has the column ``song``."""
        if "song" not in model_input.columns:
            raise invalid("the column `song` is missing: add it, with base64 of audio files")
        # MLflow turns predict({"song": [...]}) into one row with the whole list.
        songs = [s for cell in model_input["song"] for s in np.atleast_1d(cell).tolist()]
        try:
            task = TaskParams.checked(params or {})
            decoded = (decode_song(song, f"song {i}") for i, song in enumerate(songs))
            rows = (run_task(self.model, song, task, lambda: None) for song in decoded)
            return [row.model_dump() for row in rows]
        except SongcastError as error:
            raise invalid(str(error)) from None


def invalid(message: str) -> MlflowException:
    """Return the exception for invalid input; MLflow sends others with a stack trace."""
    return MlflowException(message, error_code=INVALID_PARAMETER_VALUE)


set_model(ScoringModel())

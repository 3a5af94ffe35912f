"""The served model. MLflow runs this file to make the model: no pickle is involved.

One row per song: the string column ``song``, base64 of an audio file in any format songcast
reads, or raw int16 samples as JSON (see ``payload``). The answer has one row per song: ``audio``
(base64 of a file in ``format``: the predicted song, or its continuation alone; null for the task
``score``), ``prediction_gain_db`` (one number per channel) and ``bits_per_sample`` (null for the
task ``continue``), ``sample_rate_hz``. What the client did wrong comes back as
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
from songcast.serving.payload import decode_song
from songcast.serving.tasks import Settings, answer


class ScoringModel(PythonModel):
    """Forecasts, continues and scores songs with the bundle that the model carries."""

    def load_context(self, context: Any) -> None:
        """Load the bundle."""
        import songcast

        self.model = songcast.load(context.artifacts["bundle"])

    def predict(
        self,
        context: Any,  # noqa: ARG002
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        """Answer each row; ``model_input`` has the column ``song``."""
        if "song" not in model_input.columns:
            raise invalid("the column `song` is missing: send base64 of an audio file in it")
        # predict({"song": [...]}) in Python reaches us as one row that holds the whole list.
        songs = [s for cell in model_input["song"] for s in np.atleast_1d(cell).tolist()]
        try:
            settings = Settings.checked(params or {})
            return [
                answer(self.model, decode_song(song, f"song {i}"), settings, lambda: None)
                for i, song in enumerate(songs)
            ]
        except SongcastError as error:
            raise invalid(str(error)) from None


def invalid(message: str) -> MlflowException:
    """Return the client's mistake; any other exception would show it a stack trace."""
    return MlflowException(message, error_code=INVALID_PARAMETER_VALUE)


set_model(ScoringModel())

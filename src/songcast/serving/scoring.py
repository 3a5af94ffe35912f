"""The served model. MLflow runs this file to make the model: no pickle is involved.

One row per song: the string column ``song``, base64 of an audio file in any format songcast
reads. The answer has one row per song: ``audio`` (base64 of a file in ``format``, null for the
task ``score``), ``prediction_gain_db`` (one number per channel), ``bits_per_sample``,
``sample_rate_hz``. What the client did wrong comes back as INVALID_PARAMETER_VALUE (HTTP 400).
"""

from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel

from songcast.audio import Song
from songcast.errors import SongcastError
from songcast.serving.package import DEFAULTS, TASKS
from songcast.serving.payload import decode_song, encode_song

FORMATS = ("wav", "flac", "mp3")


class ScoringModel(PythonModel):
    """Forecasts songs with the bundle that the model carries."""

    def load_context(self, context: Any) -> None:
        """Load the bundle."""
        import songcast

        self.forecaster: Any = songcast.load(context.artifacts["bundle"])

    def predict(
        self,
        context: Any,  # noqa: ARG002
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        """Answer each row; ``model_input`` has the column ``song``."""
        settings = check_params({**DEFAULTS, **(params or {})})
        if "song" not in model_input.columns:
            raise invalid("the column `song` is missing: send base64 of an audio file in it")
        # predict({"song": [...]}) in Python reaches us as one row that holds the whole list.
        songs = [s for cell in model_input["song"] for s in np.atleast_1d(cell).tolist()]
        return [self._answer(i, song, settings) for i, song in enumerate(songs)]

    def _answer(self, row: int, text: Any, settings: dict[str, Any]) -> dict[str, Any]:
        try:
            song = decode_song(text, f"song {row}")
            forecast = self.forecaster.forecast(song)
            audio = None
            if settings["task"] == "forecast":
                mean = np.clip(np.rint(forecast.mean), -32768, 32767).astype(np.int16)
                audio = encode_song(
                    Song(samples=mean, sample_rate_hz=song.sample_rate_hz, name=song.name),
                    settings["format"],
                )
        except SongcastError as error:
            raise invalid(str(error)) from None
        return {
            "audio": audio,
            "format": settings["format"] if audio else None,
            "prediction_gain_db": [float(x) for x in forecast.prediction_gain_db],
            "bits_per_sample": float(forecast.bits_per_sample),
            "sample_rate_hz": int(song.sample_rate_hz),
        }


def check_params(settings: dict[str, Any]) -> dict[str, Any]:
    """Return valid params, or raise ``MlflowException`` saying which is wrong."""
    task, audio_format = settings["task"], settings["format"]
    if task not in TASKS:
        raise invalid(f"task is {task!r}: must be one of {', '.join(TASKS)}")
    if task == "continue":
        raise invalid("task 'continue' is not available in this version: use forecast or score")
    if audio_format not in FORMATS:
        raise invalid(f"format is {audio_format!r}: must be one of {', '.join(FORMATS)}")
    return settings


def invalid(message: str) -> MlflowException:
    """Return the client's mistake; any other exception would show it a stack trace."""
    return MlflowException(message, error_code=INVALID_PARAMETER_VALUE)


set_model(ScoringModel())

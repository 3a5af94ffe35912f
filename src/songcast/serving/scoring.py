"""The served model. MLflow runs this file to make the model: no pickle is involved.

One row per song: the string column ``song``, base64 of an audio file in any format songcast
reads. The answer has one row per song: ``audio`` (base64 of a file in ``format``, null for the
task ``score``), ``prediction_gain_db`` (one number per channel), ``bits_per_sample``,
``sample_rate_hz``. What the client did wrong comes back as INVALID_PARAMETER_VALUE (HTTP 400).
"""

import base64
import binascii
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel

from songcast.errors import SongcastError
from songcast.serving.package import DEFAULTS, TASKS

FORMATS = ("wav", "flac", "mp3")


class ScoringModel(PythonModel):  # type: ignore[misc]
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
        from songcast.audio import Song

        try:
            song = read_base64(text, f"song {row}")
            forecast = self.forecaster.forecast(song)
            audio = None
            if settings["task"] == "forecast":
                mean = np.clip(np.rint(forecast.mean), -32768, 32767).astype(np.int16)
                predicted = Song(
                    samples=mean, sample_rate_hz=song.sample_rate_hz, name=f"pred_{song.name}"
                )
                audio = write_base64(predicted, settings["format"])
        except SongcastError as error:
            raise invalid(f"song {row}: {error}") from None
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


def read_base64(text: Any, name: str) -> Any:
    """Decode one song. Raises ``MlflowException`` or ``AudioError`` for what is no song."""
    from songcast.audio import read_song

    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise invalid(f"{name}: not base64: send the base64 text of an audio file") from None
    if not content:
        raise invalid(f"{name}: empty: send the base64 text of an audio file")
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / f"{name.replace(' ', '-')}{suffix_of(content)}"
        path.write_bytes(content)
        try:
            return read_song(path)
        except SongcastError as error:
            # The client does not know our scratch folder.
            raise invalid(str(error).replace(f"{scratch}/", "")) from None


def write_base64(song: Any, audio_format: str) -> str:
    """Encode a song as base64 of a file in ``audio_format``."""
    from songcast.audio import write_song

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / f"song.{audio_format}"
        write_song(song, path)
        return base64.b64encode(path.read_bytes()).decode()


def suffix_of(content: bytes) -> str:
    """Return the file suffix that the content's first bytes speak for, ``.bin`` for none.

    >>> suffix_of(b"fLaC....")
    '.flac'
    """
    if content[:4] in (b"RIFF", b"RF64"):
        return ".wav"
    if content[:4] == b"fLaC":
        return ".flac"
    if content[:4] == b"OggS":
        return ".ogg"
    if content[4:8] == b"ftyp":
        return ".m4a"
    # MPEG audio: an ID3 tag, or a frame that starts with eleven set bits. AAC in ADTS frames
    # starts likewise, but its layer bits are zero, which MPEG audio reserves.
    frame = len(content) > 1 and content[0] == 0xFF and content[1] & 0xE0 == 0xE0
    if frame and content[1] & 0xF6 == 0xF0:
        return ".aac"
    return ".mp3" if content[:3] == b"ID3" or frame else ".bin"


def invalid(message: str) -> MlflowException:
    """Return the client's mistake; any other exception would show it a stack trace."""
    return MlflowException(message, error_code=INVALID_PARAMETER_VALUE)


set_model(ScoringModel())

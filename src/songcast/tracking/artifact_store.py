"""Keep MLflow artifacts beside the database, so that the folder can be moved.

MLflow writes absolute artifact paths into its database, so a moved or re-cloned folder shows
empty listings and writes to the old place. Here a run's artifacts are named
``songcast:/songcast/<run id>/artifacts``, and this plugin (entry point
``mlflow.artifact_repository`` in pyproject.toml) looks them up in the folder ``artifacts`` next
to whichever sqlite file is open. Plain ``mlflow ui`` finds the plugin too.

Only MLflow imports this module.
"""

import os
import urllib.parse
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

SCHEME = "songcast"
SQLITE = "sqlite:///"
# The variable in which `mlflow server` passes --backend-store-uri to its workers.
SERVER_STORE = "_MLFLOW_SERVER_FILE_STORE"


class BesideDatabase(LocalArtifactRepository):
    """Artifacts of ``songcast:/PATH`` as files ``artifacts/PATH`` beside the sqlite file."""

    def __init__(
        self, artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
    ) -> None:
        folder = locate(artifact_uri, _database(tracking_uri, registry_uri))
        super().__init__(folder.as_uri(), tracking_uri, registry_uri)


def locate(artifact_uri: str, database: Path) -> Path:
    """Return the folder of ``artifact_uri``.

    Raises ``MlflowException`` for a path outside the artifacts folder: anyone who can create an
    experiment through the UI can set this text.
    """
    home = database.parent.resolve() / "artifacts"
    path = urllib.parse.unquote(urllib.parse.urlparse(artifact_uri).path)
    folder = (home / path.lstrip("/")).resolve()
    if not folder.is_relative_to(home):
        raise MlflowException(
            f"{artifact_uri}: outside the artifacts folder", INVALID_PARAMETER_VALUE
        )
    return folder


def _database(*uris: str | None) -> Path:
    """Return the sqlite file in use: that of ``uris``, of the server, or of the client."""
    candidates = (*uris, os.environ.get(SERVER_STORE), mlflow.get_tracking_uri())
    for uri in candidates:
        if uri and uri.startswith(SQLITE):
            return Path(uri.removeprefix(SQLITE).partition("?")[0]).absolute()
    raise MlflowException(
        f"{SCHEME}: artifacts are beside an sqlite database, but none is open: set "
        "MLFLOW_TRACKING_URI=sqlite:///mlruns/mlflow.db (from the repository root)",
        INVALID_PARAMETER_VALUE,
    )

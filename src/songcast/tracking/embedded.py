"""The embedded store: an sqlite file, and its artifacts beside it. Does not import MLflow.

MLflow stores absolute artifact URIs in its database, so that any MLflow client can read them. After
the folder was moved or copied they point to the old place: ``mend`` corrects them.
"""

import contextlib
import sqlite3
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

SQLITE = "sqlite:///"
EXPERIMENT = "songcast"
# The columns of MLflow's database that hold artifact URIs.
LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
VERSIONS = """
SELECT version, run_id, coalesce(storage_location, source), creation_time,
  lifecycle_stage IS 'deleted'
FROM model_versions LEFT JOIN runs ON run_uuid = run_id
WHERE model_versions.name = ? AND current_stage != 'Deleted_Internal'
"""
TAGS = "SELECT version, key, value FROM model_version_tags WHERE name = ?"
ALIASES = "SELECT alias, version FROM registered_model_aliases WHERE name = ?"


def sqlite_uri(file: Path) -> str:
    """Return the tracking URI of a database. SQLAlchemy 2.1 decodes what is encoded here."""
    path = str(file)
    # Slashes too: MLflow creates the parent folder of the path in the URI without decoding it.
    return SQLITE + (urllib.parse.quote(path, safe="") if {"%", "?"} & {*path} else path)


def database(uri: str) -> Path | None:
    """Return the sqlite file of ``uri``, None for a server."""
    if not uri.startswith(SQLITE):
        return None
    path = uri.removeprefix(SQLITE).partition("?")[0]
    return Path(urllib.parse.unquote(path)).absolute()


def artifact_root(file: Path) -> str:
    """Return the URI of the folder ``artifacts`` beside a database."""
    return (file.parent.resolve() / "artifacts").as_uri()


def mend(file: Path) -> None:
    """Correct the artifact URIs of a database whose folder was moved or copied.

    Only URIs below the folder in which songcast made its experiment change. In version 0.1 that
    was ``songcast:``. A database that cannot be written or read stays as it is.
    """
    new = artifact_root(file)
    with contextlib.suppress(sqlite3.Error), contextlib.closing(_open(file)) as connection:
        old = _recorded_root(connection)
        if old in (None, new):
            return
        with connection:
            for table, column in LOCATIONS:
                connection.execute(
                    f"UPDATE {table} SET {column} = :new || substr({column}, length(:old) + 1) "
                    f"WHERE substr({column}, 1, length(:old) + 1) = :old || '/'",
                    {"old": old, "new": new},
                )


def read_versions(file: Path, name: str) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Return the versions of a registered model, and its aliases with their versions.

    A version has the keys ``number``, ``run_id``, ``source``, ``created_ms``, ``tags`` and
    ``is_run_deleted``: its run was deleted in MLflow. Both are empty where there is no database.
    Raises ``sqlite3.Error``.
    """
    if not file.exists():
        return [], {}
    mend(file)
    tags: dict[int, dict[str, str]] = {}
    with contextlib.closing(_open(file)) as connection:
        old, new = _recorded_root(connection), artifact_root(file)
        for version, key, value in connection.execute(TAGS, (name,)):
            tags.setdefault(version, {})[key] = value
        records = [
            {
                "number": number,
                "run_id": run_id or "",
                # As after ``mend``, also where the database cannot be written.
                "source": new + source.removeprefix(old)
                if old and source.startswith(old)
                else source,
                "created_ms": created_ms,
                "tags": tags.get(number, {}),
                "is_run_deleted": bool(is_deleted),
            }
            for number, run_id, source, created_ms, is_deleted in connection.execute(
                VERSIONS, (name,)
            )
        ]
        return records, dict(connection.execute(ALIASES, (name,)).fetchall())


def set_creator(file: Path, name: str, version: int, user: str) -> None:
    """Set "Created by" of a version, for which MLflow's interface has no argument."""
    query = "UPDATE model_versions SET user_id = ? WHERE name = ? AND version = ?"
    with contextlib.closing(_open(file)) as connection, connection:
        connection.execute(query, (user, name, version))


def local_path(location: str) -> Path | None:
    """Return the path of a ``file:`` URI, None for another place."""
    parsed = urllib.parse.urlparse(location)
    return Path(urllib.request.url2pathname(parsed.path)) if parsed.scheme == "file" else None


def _recorded_root(connection: sqlite3.Connection) -> str | None:
    """Return the URI of the folder that holds the artifacts of songcast's experiment."""
    query = "SELECT artifact_location FROM experiments WHERE name = ?"
    row = connection.execute(query, (EXPERIMENT,)).fetchone()
    ours = row is not None and row[0].endswith(f"/{EXPERIMENT}")
    return row[0].removesuffix(f"/{EXPERIMENT}") if ours else None


def _open(file: Path) -> sqlite3.Connection:
    """Open a database; SQLite opens a file that is write-protected for reading."""
    return sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True)

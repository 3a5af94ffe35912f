"""Remove registered.json if the registry in use does not hold the versions that it names.

``make run`` runs it before ``dvc repro``, as ``python -m songcast.registry.outdated``: DVC cannot
see that another store is in use, or that the store was deleted, and then runs register again.
Registering again changes nothing, so removing the file too often costs seconds.
"""

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from songcast.files import REGISTERED, root
from songcast.registry.aliases import NAME
from songcast.tracking.embedded import database
from songcast.tracking.store import home, tracking_uri

VERSIONS = (
    "SELECT version FROM model_versions WHERE name = ? AND current_stage != 'Deleted_Internal'"
)


def main() -> None:
    """Remove registered.json of this repository if it is outdated."""
    registered = root() / REGISTERED
    if registered.is_file() and is_outdated(registered):
        registered.unlink()


def is_outdated(registered: Path) -> bool:
    """Return whether the store in use lacks a version that ``registered`` names."""
    try:
        content: dict[str, Any] = json.loads(registered.read_text(encoding="utf-8"))
        numbers = {*content["versions"].values(), content["challenger"], content["champion"]}
        if content["store"] != store_name():
            return True
        file = database(tracking_uri())
        return file is not None and not numbers - {None} <= _versions(file)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, sqlite3.Error):
        return True


def store_name() -> str:
    """Return the name of the store in use: ``embedded``, or its URI without credentials."""
    uri = tracking_uri()
    if database(uri) == home() / "mlflow.db":
        return "embedded"
    return re.sub(r"//[^/@]*@", "//", uri)


def _versions(file: Path) -> set[int]:
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as connection:
        return {int(number) for (number,) in connection.execute(VERSIONS, (NAME,))}


if __name__ == "__main__":
    main()

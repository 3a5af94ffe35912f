"""The registered model and its aliases."""

from typing import Any

from songcast.tracking.store import clear_errors, connect, tracking_uri

NAME = "songcast"
CHAMPION, CHALLENGER = "champion", "challenger"


def get_alias(alias: str) -> int | None:
    """Return the version that has the alias, None if no version has it."""
    uri = tracking_uri()
    with clear_errors(uri):
        return all_aliases(connect(uri)).get(alias)


def set_alias(client: Any, alias: str, number: int) -> None:
    """Give the alias to version ``number`` instead of the one that has it.

    ``promotion`` moves the champion, because it keeps the history.
    """
    if all_aliases(client).get(alias) != number:
        client.set_registered_model_alias(NAME, alias, str(number))


def all_aliases(client: Any) -> dict[str, int]:
    """Return alias to version. MLflow's search for versions does not return aliases."""
    model = registered_model(client)
    return {alias: int(number) for alias, number in model.aliases.items()} if model else {}


def registered_model(client: Any) -> Any:
    """Return the registered model with its tags and aliases, None before the first version."""
    found = client.search_registered_models(f"name = '{NAME}'")
    return found[0] if found else None


def ensure_model(client: Any) -> None:
    """Create the registered model if it does not exist."""
    from mlflow.exceptions import MlflowException

    if registered_model(client):
        return
    try:
        client.create_registered_model(
            NAME, description="Learns songs from their raw amplitude and predicts what comes next."
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":  # by another client of the server
            raise

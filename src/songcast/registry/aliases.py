"""The registered model and its aliases."""

from typing import Any

NAME = "songcast"
CHAMPION, CHALLENGER = "champion", "challenger"


def set_alias(client: Any, alias: str, number: int) -> None:
    """Give the alias to version ``number`` instead of the one that has it.

    ``promotion`` moves the champion, because it keeps the history.
    """
    if all_aliases(client).get(alias) != number:
        client.set_registered_model_alias(NAME, alias, str(number))


def all_aliases(client: Any, name: str = NAME) -> dict[str, int]:
    """Return alias to version. MLflow's search for versions does not return aliases."""
    model = registered_model(client, name)
    return {alias: int(number) for alias, number in model.aliases.items()} if model else {}


def registered_model(client: Any, name: str = NAME) -> Any:
    """Return the registered model with its tags and aliases, None before the first version."""
    found = client.search_registered_models(f"name = '{name}'")
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

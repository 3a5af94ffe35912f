"""From a name to a forecaster: registry URIs, bundle folders and the built-in ones."""

from pathlib import Path

from songcast.forecasting.forecaster import Forecaster
from songcast.forecasting.loading import bundle_folder, load_forecaster

REGISTRY_SCHEME = "models:/"


def load(uri: str | Path) -> Forecaster:
    """Return the forecaster that ``uri`` names.

    ``models:/songcast@champion`` or ``models:/songcast/3``: a registered version. A folder
    such as ``models/train``: a bundle. ``persistence`` and ``cascade`` need no fit; ``ridge``
    and ``notebook`` are the ones that `make run` fitted. Raises ``BundleError`` or
    ``RegistryError`` with what to do.

    >>> load("persistence").name
    'persistence'
    """
    return load_forecaster(locate(uri) if str(uri).startswith(REGISTRY_SCHEME) else uri)


def locate(uri: str | Path) -> Path:
    """Return the bundle folder that ``uri`` names. Raises ``RegistryError`` for a bad version."""
    text = str(uri)
    if text.startswith(REGISTRY_SCHEME):
        from songcast.registry.files import resolve

        return resolve(text)
    return bundle_folder(uri)

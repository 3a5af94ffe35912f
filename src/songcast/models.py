"""From a name to a forecaster: registry URIs, bundle folders and the built-in ones."""

from pathlib import Path

from songcast import paths
from songcast.bundle import check_weights, read_manifest
from songcast.errors import BundleError
from songcast.forecasters.base import Forecaster

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
    text = str(uri)
    if text == "persistence":
        from songcast.forecasters.persistence import Persistence

        return Persistence()
    if text == "cascade":
        from songcast.forecasters.cascade import Cascade

        return Cascade()
    return load_bundle(locate(uri))


def locate(uri: str | Path) -> Path:
    """Return the bundle folder that ``uri`` names. Raises ``RegistryError`` for a bad version."""
    text = str(uri)
    if text.startswith(REGISTRY_SCHEME):
        from songcast.registry.files import resolve

        return resolve(text)
    folder = Path(uri)
    if text in ("ridge", "notebook") and not folder.is_dir():
        return paths.root() / paths.MODELS / text
    return folder


def load_bundle(folder: Path) -> Forecaster:
    """Return the forecaster of a bundle folder. Raises ``BundleError``."""
    manifest = read_manifest(folder, verify=False)
    kind = manifest["kind"]
    if kind == "ridge":
        from songcast.forecasters.ridge import Ridge

        return Ridge.load(folder)
    if kind == "notebook":
        from songcast.forecasters.notebook import Notebook

        return Notebook.load(folder)
    if kind == "lstm":
        from songcast.forecasters.lstm import Lstm

        model = Lstm.load(folder)
        check_weights(folder, model.network)
        return model
    raise BundleError(
        f"{folder}: a bundle of unknown kind {kind!r}; this songcast knows ridge, notebook, lstm"
    )

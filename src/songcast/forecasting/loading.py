"""Loads a forecaster from a bundle folder or by its built-in name."""

from pathlib import Path

from songcast.bundle import read_manifest
from songcast.errors import BundleError
from songcast.files import MODELS, root
from songcast.forecasting.forecaster import Forecaster

BASELINES = ("persistence", "ridge", "cascade", "notebook")


def load_forecaster(name: str | Path) -> Forecaster:
    """Return the forecaster of a bundle folder, or the baseline called ``name``.

    ``persistence`` and ``cascade`` need no training; ``ridge`` and ``notebook`` are the bundles
    that `make run` wrote. Raises ``BundleError``.

    >>> load_forecaster("persistence").name
    'persistence'
    """
    if str(name) == "persistence":
        from songcast.forecasting.baselines import Persistence

        return Persistence()
    if str(name) == "cascade":
        from songcast.forecasting.baselines import Cascade

        return Cascade()
    return load_bundle(bundle_folder(name))


def bundle_folder(name: str | Path) -> Path:
    """Return the bundle folder that ``name`` refers to: a path, ``ridge`` or ``notebook``."""
    folder = Path(name)
    if str(name) in BASELINES and not folder.is_dir():
        return root() / MODELS / str(name)
    return folder


def load_bundle(folder: Path) -> Forecaster:
    """Return the forecaster of a bundle folder. Raises ``BundleError``."""
    manifest = read_manifest(folder, verify=False)
    kind = manifest["kind"]
    if kind == "ridge":
        from songcast.forecasting.ridge import Ridge

        return Ridge.load(folder)
    if kind == "notebook":
        from songcast.forecasting.notebook import Notebook

        return Notebook.load(folder)
    if kind == "lstm":
        from songcast.forecasting.lstm import LstmForecaster

        return LstmForecaster.load(folder)
    raise BundleError(f"{folder}: unknown kind of bundle {kind!r}; must be ridge, notebook or lstm")

"""Loads a forecaster from a bundle folder or by its built-in name."""

from collections.abc import Callable
from pathlib import Path

from songcast.bundle import read_manifest
from songcast.errors import BundleError
from songcast.files import MODELS, root
from songcast.forecasting.baselines import Cascade, Persistence
from songcast.forecasting.forecaster import Forecaster
from songcast.forecasting.lstm import LstmForecaster
from songcast.forecasting.notebook import Notebook
from songcast.forecasting.ridge import Ridge

# The order is that of metrics/evaluation.json.
BASELINES = ("persistence", "ridge", "cascade", "notebook")
UNTRAINED: dict[str, Callable[[], Forecaster]] = {"persistence": Persistence, "cascade": Cascade}
# By the kind of the bundle.
LOADERS: dict[str, Callable[[Path], Forecaster]] = {
    kind.name: kind.load for kind in (Ridge, Notebook, LstmForecaster)
}


def load_forecaster(name: str | Path) -> Forecaster:
    """Return the forecaster of a bundle folder, or the baseline called ``name``.

    ``persistence`` and ``cascade`` need no training; ``ridge`` and ``notebook`` are the bundles
    that `make run` wrote. Raises ``BundleError``.

    >>> load_forecaster("persistence").name
    'persistence'
    """
    if str(name) in UNTRAINED:
        return UNTRAINED[str(name)]()
    return load_bundle(bundle_folder(name))


def bundle_folder(name: str | Path) -> Path:
    """Return the bundle folder that ``name`` refers to: a path, ``ridge`` or ``notebook``."""
    folder = Path(name)
    if str(name) in BASELINES and not folder.is_dir():
        return root() / MODELS / str(name)
    return folder


def load_bundle(folder: Path) -> Forecaster:
    """Return the forecaster of a bundle folder. Raises ``BundleError``."""
    kind = read_manifest(folder, verify=False)["kind"]
    if kind not in LOADERS:
        known = ", ".join(LOADERS)
        raise BundleError(f"{folder}: unknown kind of bundle {kind!r}; must be one of {known}")
    return LOADERS[kind](folder)

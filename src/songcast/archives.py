"""Archives that may come from strangers: looked into before anything is unpacked or built.

``network.keras`` and ``arrays.npz`` are zip files. Keras' own ``safe_mode`` keeps code out of the
first; what it lets through has read files before now, so only the parts that our networks are
made of are built at all.
"""

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from songcast.errors import BundleError

CONFIG = "config.json"
NETWORK_MEMBERS = {CONFIG, "metadata.json", "model.weights.h5"}
PARTS = re.compile(
    r"keras\.(DTypePolicy|Functional|optimizers\.\w+|initializers\.\w+"
    r"|layers\.(Activation|Concatenate|Dense|InputLayer|LeakyReLU|LSTM|ReLU))"
    r"|keras\.src\.(models\.functional\.Functional|ops\.numpy\.\w+)"
    r"|songcast\.[\w.]+"
)
# How Keras writes the inputs of an operation: no class is looked up for these.
PLACES = {"__keras_tensor__", "__slice__", "__ellipsis__"}


def check_archive(path: Path) -> list[str]:
    """Return the names of the members of a zip file that is safe to read.

    Raises ``BundleError`` for a damaged one, and one that would unpack to more than it is: ours
    are stored, not compressed.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
        raise BundleError(f"{path}: not a whole archive ({error}); restore the bundle") from None
    names = [member.filename for member in members]
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise BundleError(f"{path}: unpacks to more than it is: not written by songcast")
    if len(set(names)) < len(names) or any("/" in name or "\\" in name for name in names):
        raise BundleError(f"{path}: holds paths, or a name twice: not written by songcast")
    return names


def read_network(path: Path) -> Any:
    """Return the Keras model in ``path``, to predict with; layers of ours must be imported.

    Raises ``BundleError`` where it is damaged or made of parts that no network of ours has.
    """
    foreign: set[str] = set(check_archive(path)) ^ NETWORK_MEMBERS
    if not foreign:
        with zipfile.ZipFile(path) as archive:
            config = archive.read(CONFIG)
        try:
            foreign = {part for part in parts(json.loads(config)) if not PARTS.fullmatch(part)}
        except (ValueError, RecursionError):
            foreign = {CONFIG}
    if foreign:
        raise BundleError(
            f"{path}: {sorted(foreign)[0]} is in no network of songcast's: not loaded"
        )
    import keras

    try:
        return keras.saving.load_model(path, compile=False)
    except (ValueError, TypeError, KeyError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise BundleError(f"{path}: cannot be built ({reason}); restore the bundle") from None


def parts(config: Any) -> Iterator[str]:
    """Yield the full name of each class and function that a Keras config speaks of."""
    if isinstance(config, dict):
        name = config.get("class_name")
        if name is not None and str(name) not in PLACES:
            yield f"{config.get('module')}.{name}"
        config = list(config.values())
    if isinstance(config, list):
        for value in config:
            yield from parts(value)

"""The lineage of a model: code, songs, environment, machine. Does not need MLflow."""

import contextlib
import datetime
import getpass
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from songcast.data.corpus import TRAIN, read_index
from songcast.errors import CorpusError
from songcast.files import DATA, PREPARED, root, sha256_of_file

# The keys of ``provenance`` that runs and versions have as tags songcast.KEY.
ORIGIN = (
    *("time", "git_commit", "git_dirty", "data_hash", "lock_sha256"),
    *("backend", "device", "hardware"),
)
# The files that determine a result. Files that the pipeline itself writes (dvc.lock, metrics,
# plots) change while it runs, so they are not checked for changes.
SOURCES = ("src", "params.yaml", "dvc.yaml", "data.dvc", "requirements.lock", "pyproject.toml")


CPU = "CPU"


def here() -> Path:
    """Return the folder in which the pipeline runs: a DVC experiment runs in a copy."""
    return Path.cwd() if (Path.cwd() / "dvc.yaml").is_file() else root()


def provenance(learned: Collection[str] = ()) -> dict[str, Any]:
    """Return the origin of a model that is trained now, for its bundle.json, as JSON values.

    ``learned``: slugs of the songs that it learns from. The code is that of the commit, plus
    uncommitted changes if ``git_dirty``. Unknown values are None.
    """
    folder = here()
    commit, dirty = git_state(folder)
    # SOURCE_DATE_EPOCH makes outputs reproducible byte by byte (reproducible-builds.org).
    now = float(os.environ.get("SOURCE_DATE_EPOCH") or time.time())
    return {
        "time": datetime.datetime.fromtimestamp(now, datetime.UTC).isoformat(timespec="seconds"),
        "git_commit": commit,
        "git_dirty": dirty,
        "data_hash": data_hash(folder),
        "lock_sha256": lock_hash(folder),
        "hardware": hardware(),
        "device": device(),
        "backend": backend(),
        "experiment": os.environ.get("DVC_EXP_NAME"),
        "params": params(folder),
        "songs": songs(folder, learned),
    }


def origin_tags(origin: Mapping[str, Any]) -> dict[str, str]:
    """Return the ``provenance`` of a model as MLflow tags; unknown values are absent."""
    tags = {f"songcast.{key}": origin.get(key) for key in ORIGIN}
    tags["mlflow.source.git.commit"] = origin.get("git_commit")
    tags["dvc.exp_name"] = origin.get("experiment")
    return {
        key: str(value).lower() if isinstance(value, bool) else str(value)
        for key, value in tags.items()
        if value not in (None, "")
    }


def user() -> str:
    """Return the name of the user on the tracking server, else on this machine."""
    with contextlib.suppress(OSError, KeyError):  # a container may have no user name
        return os.environ.get("MLFLOW_TRACKING_USERNAME") or getpass.getuser()
    return "unknown"


def git_state(folder: Path) -> tuple[str | None, bool | None]:
    """Return the commit of ``folder``, None outside git, and whether its sources differ from it."""
    commit = _output(["git", "-C", str(folder), "rev-parse", "HEAD"])
    if not commit:
        return None, None
    status = _output(["git", "-C", str(folder), "status", "--porcelain", "--", *SOURCES])
    return commit, None if status is None else bool(status)


def data_hash(folder: Path) -> str | None:
    """Return the md5 of all songs together from ``data.dvc``, None without such a file."""
    try:
        return str(_mapping(folder / "data.dvc")["outs"][0]["md5"])
    except (KeyError, IndexError, TypeError):
        return None


def lock_hash(folder: Path) -> str | None:
    """Return the sha256 of ``requirements.lock``, None without such a file."""
    try:
        return sha256_of_file(folder / "requirements.lock")
    except OSError:
        return None


def params(folder: Path) -> dict[str, Any]:
    """Return the content of params.yaml, empty if it is missing or invalid."""
    return _mapping(folder / "params.yaml")


def _mapping(path: Path) -> dict[str, Any]:
    """Return the content of a YAML file, empty if it is missing or no mapping."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return {}
    return content if isinstance(content, dict) else {}


def seeds(params: Mapping[str, Any]) -> dict[str, int]:
    """Return every seed among nested params.

    >>> seeds({"train": {"seed": 3, "units": 96}, "retrain": {"seed": 1}})
    {'train.seed': 3, 'retrain.seed': 1}
    """
    values: dict[str, int] = {}
    for key, value in params.items():
        if isinstance(value, Mapping):
            values |= {f"{key}.{inner}": seed for inner, seed in seeds(value).items()}
        elif key == "seed":
            values[key] = value
    return values


def songs(folder: Path, learned: Collection[str] = ()) -> list[dict[str, Any]]:
    """Return the prepared songs of ``folder``: slug, source, sha256, seconds, learned, licence.

    ``learned``: slugs of the songs in the training data. ``licence``: from data/SOURCES.md, under
    the heading of the file's name; None if it is not stated. Empty without prepared songs.
    """
    try:
        _, prepared = read_index(folder / PREPARED)
    except CorpusError:
        return []
    known = licences(folder / DATA / "SOURCES.md")
    return [
        {
            "slug": song.slug,
            "source": song.source,
            "sha256": song.sha256,
            "seconds": round(song.frames / song.sample_rate_hz, 2),
            "learned": TRAIN in song.splits and song.slug in learned,
            "licence": known.get(song.source),
        }
        for song in prepared
    ]


def licences(path: Path) -> dict[str, str]:
    """Return file name to licence, from a page with `## FILE` headings and `- licence:` lines."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    found: dict[str, str] = {}
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        line = re.search(r"^- licen[cs]e:(.*)$", section, re.MULTILINE | re.IGNORECASE)
        if line:
            found[section.splitlines()[0].strip()] = line[1].strip()
    return found


def hardware() -> str:
    """Describe this machine in one line: processor and cores. No host name."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [x.partition(":")[2].strip() for x in lines if x.startswith("model name")]
    return f"{names[0] if names else model}, {os.cpu_count()} cores"


def device() -> str:
    """Return the device on which Keras computes in this process: the name of a GPU, or ``CPU``."""
    name = backend().partition(" ")[0]
    library = sys.modules.get(name)
    if library is None:
        return CPU
    if name == "jax":
        return str(library.devices()[0].device_kind) if library.default_backend() == "gpu" else CPU
    gpus = library.config.get_visible_devices("GPU")
    if not gpus:
        return CPU
    return str(library.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU"))


def unused_gpu() -> str | None:
    """Return the name of this machine's GPU if Keras does not use it; None if hidden on purpose."""
    if device() != CPU or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return None
    names = _output(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"])
    return names.partition("\n")[0] if names else None


def backend() -> str:
    """Return the Keras backend with its version, such as ``tensorflow 2.21.0``."""
    keras = sys.modules.get("keras")
    name = keras.config.backend() if keras else os.environ.get("KERAS_BACKEND") or "tensorflow"
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        return str(name)


def _output(command: list[str]) -> str | None:
    """Return the output of ``command``, None if it is missing, slow or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None

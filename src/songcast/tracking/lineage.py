"""The lineage of a model: code, songs, environment, machine. Does not need MLflow."""

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from songcast.data.corpus import TRAIN, read_index
from songcast.errors import CorpusError
from songcast.files import DATA, PREPARED, root, sha256_of_file

# The files that determine a result. Files that the pipeline itself writes (dvc.lock, metrics,
# plots) change while it runs, so they are not checked for changes.
SOURCES = ("src", "params.yaml", "dvc.yaml", "data.dvc", "requirements.lock", "pyproject.toml")


@dataclass(frozen=True, kw_only=True)
class GitState:
    """``commit``: full hash, None outside git. ``dirty``: a source differs from the commit."""

    commit: str | None
    dirty: bool | None


def here() -> Path:
    """Return the folder in which the pipeline runs: a DVC experiment runs in a copy."""
    return Path.cwd() if (Path.cwd() / "dvc.yaml").is_file() else root()


def lineage_tags() -> dict[str, str]:
    """Return the lineage of a run that starts now, as MLflow tags; unknown values are absent."""
    folder = here()
    git = git_state(folder)
    found = {
        "songcast.git_commit": git.commit,
        "mlflow.source.git.commit": git.commit,
        "songcast.git_dirty": None if git.dirty is None else str(git.dirty).lower(),
        "songcast.data_hash": data_hash(folder),
        "songcast.lock_sha256": lock_hash(folder),
        "songcast.hardware": hardware(),
        "songcast.backend": backend(),
        "dvc.exp_name": os.environ.get("DVC_EXP_NAME"),
        "dvc.stage": os.environ.get("DVC_STAGE"),
    }
    return {key: value for key, value in found.items() if value}


def git_state(folder: Path) -> GitState:
    """Return the commit of ``folder`` and whether its sources differ from the commit."""
    commit = _first_output(["git", "-C", str(folder), "rev-parse", "HEAD"])
    if not commit:
        return GitState(commit=None, dirty=None)
    status = _output(["git", "-C", str(folder), "status", "--porcelain", "--", *SOURCES])
    return GitState(commit=commit, dirty=None if status is None else bool(status.strip()))


def data_hash(folder: Path) -> str | None:
    """Return the md5 of all songs together from ``data.dvc``, None without such a file."""
    try:
        content = yaml.safe_load((folder / "data.dvc").read_text())
        return str(content["outs"][0]["md5"])
    except (OSError, yaml.YAMLError, KeyError, IndexError, TypeError):
        return None


def lock_hash(folder: Path) -> str | None:
    """Return the sha256 of ``requirements.lock``, None without such a file."""
    try:
        return sha256_of_file(folder / "requirements.lock")
    except OSError:
        return None


def params(folder: Path) -> dict[str, Any]:
    """Return the content of params.yaml, empty if it is missing or invalid."""
    try:
        content = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
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


def songs(folder: Path) -> list[dict[str, Any]]:
    """Return the prepared songs of ``folder``: slug, source, sha256, seconds, learned, licence.

    ``learned``: whether the song is in the training data. ``licence``: from data/SOURCES.md, under
    the heading of the file's name; None if it is not stated. Empty without prepared songs.
    """
    try:
        _, prepared = read_index(folder / PREPARED)
    except CorpusError:
        return []
    known = licences(folder / DATA / "SOURCES.md")
    excluded = set(params(folder).get("train", {}).get("exclude") or ())
    return [
        {
            "slug": song.slug,
            "source": song.source,
            "sha256": song.sha256,
            "seconds": round(song.frames / song.sample_rate_hz, 2),
            "learned": TRAIN in song.splits and not excluded & {song.slug, song.source},
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
    """Describe this machine in one line: processor, cores, GPUs. No host name."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [x.partition(":")[2].strip() for x in lines if x.startswith("model name")]
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    gpus = " + ".join((_output(query) or "").split("\n")).strip(" +")
    return f"{names[0] if names else model}, {os.cpu_count()} cores, {gpus or 'no GPU'}"


def backend() -> str:
    """Return the Keras backend with its version, such as ``tensorflow 2.21.0``."""
    keras = sys.modules.get("keras")
    name = keras.config.backend() if keras else os.environ.get("KERAS_BACKEND") or "tensorflow"
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        return str(name)


def _first_output(command: list[str]) -> str | None:
    output = _output(command)
    return output.strip() if output else None


def _output(command: list[str]) -> str | None:
    """Return the output of ``command``, None if it is missing, slow or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None

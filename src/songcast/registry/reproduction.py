"""Building a version again from what is recorded of it, and comparing.

The commit is checked out into a scratch folder, the recorded params and songs are put there, the
pipeline runs without any of its caches, and weights and metrics are compared.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from songcast import files, registry
from songcast.bundle import read_manifest
from songcast.errors import RegistryError
from songcast.registry import PARAMS, PARENT_WEIGHTS, Version
from songcast.registry.comparison import bits_of_songs
from songcast.registry.files import resolve
from songcast.tracking import lineage
from songcast.tracking.evaluation_log import measured

# On another machine sums are taken in another order, and training multiplies the difference.
# How much that is has not been measured: the tolerance is a choice.
TOLERANCE_BITS = 0.02
SONGS = "songcast.data_hash"
# They reach git's command line and data.dvc: what a registry says is not believed.
COMMIT, DATA_HASH = re.compile(r"[0-9a-f]{40,64}"), re.compile(r"([0-9a-f]{32}(\.dir)?)?")


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """What came of it.

    ``verdict``: identical weights; or, elsewhere, every song within ``TOLERANCE_BITS``; or
    different. ``differences``: slug to bits per sample, new minus registered.
    """

    uri: str
    commit: str
    dirty: bool
    same_hardware: bool
    environment: str
    weights_sha256: str
    verdict: Literal["identical", "within tolerance", "different"]
    differences: Mapping[str, float]

    @property
    def largest_bits(self) -> float:
        """The largest difference of any song, in bits per sample."""
        return max(map(abs, self.differences.values()), default=0.0)


def reproduce(uri: str, say: Callable[[str], None]) -> Reproduction:
    """Build the version ``uri`` again and compare; ``say`` is told each step.

    Raises ``RegistryError`` where the commit, the songs or the environment cannot be had, or a
    stage fails.
    """
    found = registry.named(uri)
    commit = found.tags.get("songcast.git_commit")
    if not commit:
        raise RegistryError(f"{uri}: no git commit was recorded: it cannot be made again")
    songs = found.tags.get(SONGS, "")
    if not COMMIT.fullmatch(commit) or not DATA_HASH.fullmatch(songs):
        raise RegistryError(f"{uri}: its commit or the hash of its songs is none: not made again")
    with tempfile.TemporaryDirectory(prefix="songcast-reproduce-") as scratch:
        folder = Path(scratch) / "repository"
        say(f"checking out {commit[:12]}")
        checkout(commit, folder, uri)
        restore_params(found, folder)
        say("restoring the songs")
        restore_songs(found, folder)
        python, environment = restore_environment(found, folder, say)
        say("running the pipeline up to its evaluation, without caches")
        run_pipeline(python, folder, found)
        return compare(found, folder, uri=uri, commit=commit, environment=environment)


def checkout(commit: str, folder: Path, uri: str) -> None:
    """Check ``commit`` of this repository out into ``folder``."""
    there = ["git", "clone", "--quiet", "--shared", "--no-checkout", str(files.root()), str(folder)]
    try:
        _run(there, Path.cwd())
        _run(["git", "checkout", "--quiet", "--detach", commit], folder)
    except RegistryError as error:
        raise RegistryError(
            f"{uri}: commit {commit[:12]} cannot be checked out here: run this in a clone that "
            f"has it ({error})"
        ) from None


def restore_params(found: Version, folder: Path) -> None:
    """Write the recorded params; a registered parent becomes its local bundle."""
    recorded = json.loads(found.tags.get(PARAMS, "{}"))
    if not recorded:
        return
    retrain = recorded.get("retrain", {})
    if str(retrain.get("parent", "")).startswith("models:/"):
        weights = found.tags.get(PARENT_WEIGHTS)
        known = {v.weights_sha256: v.uri for v in registry.versions()}
        if weights in known:  # the alias may have moved; the weights have not
            shutil.copytree(resolve(known[weights]), folder / "parent")
            retrain["parent"] = "parent"
    (folder / files.PARAMS).write_text(yaml.safe_dump(recorded, sort_keys=False), encoding="utf-8")


def restore_songs(found: Version, folder: Path) -> None:
    """Fetch the songs from this repository's cache, else from the commit's DVC remote."""
    wanted = found.tags.get(SONGS)
    pointer = folder / "data.dvc"
    there = lineage.data_hash(folder)
    if wanted and there and wanted != there:  # the songs of an uncommitted data.dvc
        pointer.write_text(pointer.read_text().replace(there, wanted))
    cache = files.root() / ".dvc" / "cache"
    dvc = [sys.executable, "-m", "dvc"]
    # A cache is laid out as a remote is. Not shared: nothing of this may reach it.
    _run([*dvc, "remote", "add", "--local", "here", str(cache)], folder)
    try:
        _run([*dvc, "pull", "-r", "here", "data.dvc"], folder)
    except RegistryError:
        try:
            _run([*dvc, "pull", "data.dvc"], folder)
        except RegistryError as error:
            raise RegistryError(
                f"{found.uri}: its songs (data.dvc {wanted or there}) are neither in the cache "
                f"nor in the remote: {error}"
            ) from None


def restore_environment(
    found: Version, folder: Path, say: Callable[[str], None]
) -> tuple[str, str]:
    """Return the Python to run and what it is: this one, if its lock is the recorded one."""
    if found.tags.get("songcast.lock_sha256") == lineage.lock_hash(files.root()):
        return sys.executable, "this environment, the same lock"
    say("installing the environment of that commit (some minutes)")
    _run(["make", ".venv/installed"], folder)
    return str(folder / ".venv" / "bin" / "python"), "installed from that commit's lock"


def run_pipeline(python: str, folder: Path, found: Version) -> None:
    """Run all stages up to evaluate in ``folder``, their output on stderr."""
    # Stages must run: neither the lock nor DVC's run cache may say that they have.
    (folder / "dvc.lock").unlink(missing_ok=True)
    backend = found.tags.get("songcast.backend", "").split(" ")[0]
    hidden = ("MLFLOW_TRACKING_URI", "DVC_ROOT", "DVC_STAGE", "DVC_EXP_NAME")
    environment = {k: v for k, v in os.environ.items() if k not in hidden} | {
        "PATH": os.pathsep.join([str(Path(python).parent), os.environ.get("PATH", "")]),
        "PYTHONPATH": str(folder / "src"),
        **({"KERAS_BACKEND": backend} if backend else {}),
    }
    command = [python, "-m", "dvc", "repro", "--no-run-cache", "evaluate"]
    if subprocess.run(command, cwd=folder, env=environment, stdout=2, check=False).returncode:
        raise RegistryError(f"{found.uri}: a stage failed; its output stands above")


def compare(found: Version, folder: Path, **known: Any) -> Reproduction:
    """Compare the outputs in ``folder`` with the registered version."""
    manifest = read_manifest(folder / files.MODELS / found.kind)
    evaluation = json.loads((folder / files.METRICS / "evaluation.json").read_text())
    mine, theirs = bits_of_songs(measured(evaluation, found.kind)), bits_of_songs(found.evaluation)
    differences = {slug: mine[slug] - theirs[slug] for slug in sorted(mine.keys() & theirs.keys())}
    same_hardware = found.tags.get("songcast.hardware") == lineage.hardware()
    close = bool(differences) and all(abs(d) <= TOLERANCE_BITS for d in differences.values())
    verdict: Literal["identical", "within tolerance", "different"] = "different"
    if manifest["weights_sha256"] == found.weights_sha256:
        verdict = "identical"
    elif close and not same_hardware:
        verdict = "within tolerance"
    return Reproduction(
        dirty=found.tags.get("songcast.git_dirty") == "true",
        same_hardware=same_hardware,
        weights_sha256=str(manifest["weights_sha256"]),
        verdict=verdict,
        differences=differences,
        **known,
    )


def _run(command: list[str], folder: Path) -> None:
    """Run a command quietly. Raises ``RegistryError`` with its last line."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except OSError as error:
        raise RegistryError(f"{command[0]} cannot be run ({error.strerror})") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
        raise RegistryError(f"{' '.join(command[:2])}: {said[-1]}")

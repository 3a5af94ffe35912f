"""Build a version again from its recorded lineage, and compare.

The commit is checked out into a scratch folder, the recorded params and songs are restored there,
the pipeline runs without its caches, and weights and metrics are compared.
"""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from songcast import files
from songcast.bundle import read_manifest
from songcast.errors import RegistryError
from songcast.registry.comparison import bits_of_songs
from songcast.registry.downloads import resolve
from songcast.registry.versions import Version, find_version, list_versions
from songcast.tracking import lineage
from songcast.tracking.evaluation_log import measured

# Another machine may add numbers in another order, and training amplifies the difference. Its
# size has not been measured: the tolerance is a choice.
TOLERANCE_BITS = 0.02
MACHINE = ("hardware", "device")
# These values reach git's command line and data.dvc, so values from a registry are checked.
COMMIT, DATA_HASH = re.compile(r"[0-9a-f]{40,64}"), re.compile(r"([0-9a-f]{32}(\.dir)?)?")


def reproduce(uri: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Build the version ``uri`` again and compare; ``say`` receives a line for each step.

    Returns the result of ``compare`` with the keys ``uri``, ``commit``, ``dirty`` (the original had
    uncommitted changes) and ``environment``. Raises ``RegistryError`` if the commit, the songs or
    the environment are not available, or a stage fails.
    """
    version = find_version(uri)
    commit = version.lineage.get("git_commit")
    if not commit:
        raise RegistryError(f"{uri}: no git commit was recorded: it cannot be built again")
    songs = version.lineage.get("data_hash", "")
    if not COMMIT.fullmatch(commit) or not DATA_HASH.fullmatch(songs):
        raise RegistryError(f"{uri}: the record of its commit or songs is invalid")
    with tempfile.TemporaryDirectory(prefix="songcast-reproduce-") as scratch:
        folder = Path(scratch) / "repository"
        say(f"checking out {commit[:12]}")
        checkout(commit, folder, uri)
        restore_params(version, folder)
        say("restoring the songs")
        restore_songs(version, folder)
        python, environment = restore_environment(version, folder, say)
        say("running the pipeline up to its evaluation, without caches")
        run_pipeline(python, folder, version)
        return {
            "uri": uri,
            "commit": commit,
            "dirty": bool(version.lineage.get("git_dirty")),
            "environment": environment,
            **compare(version, folder),
        }


def checkout(commit: str, folder: Path, uri: str) -> None:
    """Check out ``commit`` of this repository into ``folder``."""
    there = ["git", "clone", "--quiet", "--shared", "--no-checkout", str(files.root()), str(folder)]
    try:
        _run(there, Path.cwd())
        _run(["git", "checkout", "--quiet", "--detach", commit], folder)
    except RegistryError as error:
        raise RegistryError(
            f"{uri}: commit {commit[:12]} cannot be checked out: run this in a clone that "
            f"has it ({error})"
        ) from None


def restore_params(version: Version, folder: Path) -> None:
    """Write the recorded params; a registered parent is replaced by its local bundle."""
    recorded = copy.deepcopy(version.lineage.get("params"))
    if not recorded:
        return
    retrain = recorded.get("retrain", {})
    if str(retrain.get("parent", "")).startswith("models:/"):
        weights = version.lineage.get("parent_weights_sha256")
        known = {v.weights_sha256: v.uri for v in list_versions()}
        if weights in known:  # by weights, because the alias may have moved
            shutil.copytree(resolve(known[weights]), folder / "parent")
            retrain["parent"] = "parent"
    (folder / files.PARAMS).write_text(yaml.safe_dump(recorded, sort_keys=False), encoding="utf-8")


def restore_songs(version: Version, folder: Path) -> None:
    """Fetch the songs from this repository's cache, else from the commit's DVC remote."""
    wanted = version.lineage.get("data_hash")
    pointer = folder / "data.dvc"
    there = lineage.data_hash(folder)
    if wanted and there and wanted != there:  # the songs of an uncommitted data.dvc
        pointer.write_text(pointer.read_text().replace(there, wanted))
    cache = files.root() / ".dvc" / "cache"
    dvc = [sys.executable, "-m", "dvc"]
    # A cache has the layout of a remote. It is not shared, so that nothing is written to it.
    _run([*dvc, "remote", "add", "--local", "here", str(cache)], folder)
    try:
        _run([*dvc, "pull", "-r", "here", "data.dvc"], folder)
    except RegistryError:
        try:
            _run([*dvc, "pull", "data.dvc"], folder)
        except RegistryError as error:
            raise RegistryError(
                f"{version.uri}: its songs (data.dvc {wanted or there}) are neither in the cache "
                f"nor in the remote: {error}"
            ) from None


def restore_environment(
    version: Version, folder: Path, say: Callable[[str], None]
) -> tuple[str, str]:
    """Return the Python to run and its description: this one if its lock is the recorded one."""
    if version.lineage.get("lock_sha256") == lineage.lock_hash(files.root()):
        return sys.executable, "this environment, the same lock"
    say("installing the environment of that commit (some minutes)")
    _run(["make", ".venv/installed"], folder)
    return str(folder / ".venv" / "bin" / "python"), "installed from that commit's lock"


def run_pipeline(python: str, folder: Path, version: Version) -> None:
    """Run all stages up to evaluate in ``folder``; their output goes to stderr."""
    # Without the lock file and the run cache, DVC runs every stage.
    (folder / "dvc.lock").unlink(missing_ok=True)
    backend = version.lineage.get("backend", "").split(" ")[0]
    hidden = ("MLFLOW_TRACKING_URI", "DVC_ROOT", "DVC_STAGE", "DVC_EXP_NAME")
    environment = {k: v for k, v in os.environ.items() if k not in hidden} | {
        "PATH": os.pathsep.join([str(Path(python).parent), os.environ.get("PATH", "")]),
        "PYTHONPATH": str(folder / "src"),
        **({"KERAS_BACKEND": backend} if backend else {}),
    }
    command = [python, "-m", "dvc", "repro", "--no-run-cache", "evaluate"]
    if subprocess.run(command, cwd=folder, env=environment, stdout=2, check=False).returncode:
        raise RegistryError(f"{version.uri}: a stage failed; see its output above")


def compare(version: Version, folder: Path) -> dict[str, Any]:
    """Compare the outputs in ``folder`` with the registered version.

    ``verdict``: identical weights; or, on other hardware, every song within ``TOLERANCE_BITS``; or
    different. ``differences``: slug to bits per sample, new minus registered. ``largest_bits``: the
    largest of them.
    """
    manifest = read_manifest(folder / files.MODELS / version.kind)
    evaluation = json.loads((folder / files.METRICS / "evaluation.json").read_text())
    mine, theirs = (
        bits_of_songs(measured(evaluation, version.kind)),
        bits_of_songs(version.evaluation),
    )
    differences = {slug: mine[slug] - theirs[slug] for slug in sorted(mine.keys() & theirs.keys())}
    origin = manifest.get("provenance") or {}
    same_hardware = all(origin.get(key) == version.lineage.get(key) for key in MACHINE)
    largest = max(map(abs, differences.values()), default=0.0)
    if manifest["weights_sha256"] == version.weights_sha256:
        verdict = "identical"
    else:
        close = differences and largest <= TOLERANCE_BITS and not same_hardware
        verdict = "within tolerance" if close else "different"
    return {
        "same_hardware": same_hardware,
        "weights_sha256": manifest["weights_sha256"],
        "verdict": verdict,
        "differences": differences,
        "largest_bits": largest,
    }


def _run(command: list[str], folder: Path) -> None:
    """Run a command quietly. Raises ``RegistryError`` with its last line."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except OSError as error:
        raise RegistryError(f"{command[0]} cannot be run ({error.strerror})") from None
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        raise RegistryError(f"{' '.join(command[:2])}: {lines[-1]}")

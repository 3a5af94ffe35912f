"""What is not what it was, is noticed by its hash."""

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.small_models import RATE_HZ, randomised
from songcast.bundle import MANIFEST, NETWORK
from songcast.errors import BundleError
from songcast.files import sha256_of_file
from songcast.registry.models import load

ROOT = Path(__file__).parents[2]
SONG_BYTES = 8_000_000


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A repository whose songs were pushed to its remote, set up as this one is."""
    folder = tmp_path_factory.mktemp("songs")
    (folder / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc" / "config", folder / ".dvc")
    (folder / "data").mkdir()
    rng = random.Random(0)
    for name in ("a", "b", "c"):
        (folder / "data" / f"{name}.wav").write_bytes(rng.randbytes(SONG_BYTES))
    subprocess.run(["git", "init", "-q", folder], check=True)
    assert dvc(folder, "add", "data") == (0, "")
    assert dvc(folder, "push", "data.dvc") == (0, "")
    return folder


@pytest.fixture
def emptied(shared, tmp_path):
    """A copy of it that has the remote alone."""
    copy = tmp_path / "copy"
    shutil.copytree(shared, copy, ignore=shutil.ignore_patterns("cache", "data"))
    return copy


def start_dvc(folder, *words):
    site = {"DVC_SITE_CACHE_DIR": str(folder / ".dvc" / "site")}
    command = [sys.executable, "-m", "dvc", words[0], "-q", *words[1:]]
    return subprocess.Popen(
        command, cwd=folder, env={**os.environ, **site}, stderr=subprocess.PIPE, text=True
    )


def dvc(folder, *words):
    """Return its exit code and what it said on stderr."""
    process = start_dvc(folder, *words)
    said = process.communicate()[1]
    return process.returncode, said


def songs(folder):
    return {path.name: sha256_of_file(path) for path in (folder / "data").glob("*")}


def test_a_song_that_rotted_in_the_remote_is_not_delivered(emptied):
    stored = [path for path in (emptied / "dvcstore").rglob("*") if path.is_file()]
    rotten = max(stored, key=lambda path: path.stat().st_size)
    content = bytearray(rotten.read_bytes())
    content[1000] ^= 1
    rotten.chmod(0o644)
    rotten.write_bytes(content)
    code, _ = dvc(emptied, "pull", "data.dvc")
    assert code != 0
    assert songs(emptied) == {}


def test_a_pull_that_was_killed_is_finished_by_the_next(shared, emptied):
    pulling = start_dvc(emptied, "pull", "data.dvc")
    while pulling.poll() is None and not list((emptied / ".dvc").glob("cache/files/md5/*/*")):
        time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):
        pulling.kill()
    pulling.communicate()
    assert dvc(emptied, "pull", "data.dvc") == (0, "")
    assert songs(emptied) == songs(shared)


def test_weights_that_were_exchanged_hash_and_all_are_noticed(tmp_path):
    for number, name in enumerate(("right", "wrong")):
        details = {"sample_rate_hz": RATE_HZ, "channels": 2}
        randomised(seed=number).save(tmp_path / name, details, "")
    right = tmp_path / "right"
    assert load(right).name == "lstm"
    shutil.copy(tmp_path / "wrong" / NETWORK, right / NETWORK)
    with pytest.raises(BundleError, match="missing or altered"):
        load(right)
    manifest = json.loads((right / MANIFEST).read_text())
    manifest["files"][NETWORK] = sha256_of_file(right / NETWORK)
    (right / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="holds other weights than its"):
        load(right)

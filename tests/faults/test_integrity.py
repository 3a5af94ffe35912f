"""Altered songs and weights are detected by their hashes."""

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
from songcast.bundle import MANIFEST, WEIGHTS
from songcast.errors import BundleError
from songcast.files import sha256_of_file
from songcast.registry.models import load

ROOT = Path(__file__).parents[2]
SONG_BYTES = 8_000_000


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A repository with the DVC settings of this one, whose songs are in its remote."""
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
    """A copy of it without songs and cache."""
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
    """Return the exit code and the output on stderr."""
    process = start_dvc(folder, *words)
    errors = process.communicate()[1]
    return process.returncode, errors


def songs(folder):
    return {path.name: sha256_of_file(path) for path in (folder / "data").glob("*")}


def test_a_song_that_was_damaged_in_the_remote_is_not_pulled(emptied):
    stored = [path for path in (emptied / "dvcstore").rglob("*") if path.is_file()]
    damaged = max(stored, key=lambda path: path.stat().st_size)
    content = bytearray(damaged.read_bytes())
    content[1000] ^= 1
    damaged.chmod(0o644)
    damaged.write_bytes(content)
    code, _ = dvc(emptied, "pull", "data.dvc")
    assert code != 0
    assert songs(emptied) == {}


def test_the_next_pull_completes_a_pull_that_was_killed(shared, emptied):
    pulling = start_dvc(emptied, "pull", "data.dvc")
    while pulling.poll() is None and not list((emptied / ".dvc").glob("cache/files/md5/*/*")):
        time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):
        pulling.kill()
    pulling.communicate()
    assert dvc(emptied, "pull", "data.dvc") == (0, "")
    assert songs(emptied) == songs(shared)


def test_exchanged_weights_are_detected_even_if_their_hash_is_exchanged_too(tmp_path):
    for number, name in enumerate(("right", "wrong")):
        details = {"sample_rate_hz": RATE_HZ, "channels": 2}
        randomised(seed=number).save(tmp_path / name, details, "")
    right = tmp_path / "right"
    assert load(right).name == "lstm"
    shutil.copy(tmp_path / "wrong" / WEIGHTS, right / WEIGHTS)
    with pytest.raises(BundleError, match="missing or altered"):
        load(right)
    manifest = json.loads((right / MANIFEST).read_text())
    manifest["files"][WEIGHTS] = sha256_of_file(right / WEIGHTS)
    (right / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="weights differ from"):
        load(right)

"""A full or read-only disk gives one line and leaves all outputs as they were."""

import os
import shutil
import subprocess
from contextlib import contextmanager

import pytest

from helpers.kills import differences
from helpers.small_pipeline import Pipeline

KIB = 1024
# The free space, which the stage exceeds in the middle of its output. These stages write in
# different ways: songs, features and checkpoints, many WAVs, the registry.
FREE_KIB = {
    "prepare": 40,
    "train": 600,
    "evaluate": 30,
    "register": 100,
}


def mount(*words):
    done = subprocess.run(["mount", *words], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"needs the right to mount: {done.stderr.strip()}")


@contextmanager
def mounted(place, *words):
    place.mkdir(exist_ok=True)
    mount(*words, str(place))
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@contextmanager
def small_disk(pipeline, tmp_path, free_kib):
    """Yield a copy of the pipeline on a disk with this free space, and a function to enlarge it."""
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=256m", "tmpfs") as disk:
        folder = disk / "repository"
        shutil.copytree(pipeline.folder, folder, symlinks=True)
        usage = os.statvfs(disk)
        used_kib = (usage.f_blocks - usage.f_bfree) * usage.f_frsize // KIB
        mount("-o", f"remount,size={used_kib + free_kib}k", str(disk))
        yield Pipeline(folder), lambda: mount("-o", "remount,size=256m", str(disk))


@pytest.mark.parametrize("stage", FREE_KIB)
def test_a_full_disk_gives_one_line_and_the_stage_runs_once_there_is_space(at, tmp_path, stage):
    pipeline, rehearsal = at(stage)
    before = pipeline.results()
    with small_disk(pipeline, tmp_path, FREE_KIB[stage]) as (cramped, make_space):
        process = cramped.start_bare(stage)
        output = process.communicate()[0]
        assert process.returncode == 2, output
        assert "Traceback" not in output
        last = output.splitlines()[-1]
        assert last.startswith(f"songcast {stage}: ")
        # libsndfile only reports a system error.
        reasons = ("disk is full", "No space left", "cannot be written")
        assert any(reason in last for reason in reasons), last
        results = cramped.results()
        assert {name: results.get(name) for name in before} == before
        assert cramped.half_written() == []
        make_space()
        cramped.run_stage(stage)
        # MLflow cannot record the failure on a full disk; the next run marks it as killed.
        assert list(differences(cramped, rehearsal, spoiled=("FAILED", "KILLED"))) == []
        assert cramped.half_written() == []


@pytest.mark.parametrize("stage", ["prepare", "register"])
def test_a_read_only_checkout_gives_one_line(at, tmp_path, stage):
    pipeline, _ = at(stage)
    before = pipeline.results()
    folder = pipeline.folder
    with mounted(tmp_path / "disk", "--bind", str(folder)) as disk:
        mount("-o", "remount,bind,ro", str(disk))
        process = Pipeline(disk).start_bare(stage)
        output = process.communicate()[0]
    assert process.returncode == 2, output
    assert "Traceback" not in output
    assert output.splitlines()[-1].startswith(f"songcast {stage}: ")
    assert "ead-only" in output
    assert pipeline.results() == before

"""A disk that is full or may not be written costs a line, and nothing that was there."""

import os
import shutil
import subprocess
from contextlib import contextmanager

import pytest

from helpers.kills import differences
from helpers.small_pipeline import STAGES, Pipeline

KIB = 1024
# What is left of the disk: in the middle of what the stage writes.
FREE_KIB = {
    "prepare": 40,
    "baselines": 300,
    "continuation": 200,
    "train": 600,
    "retrain": 200,
    "evaluate": 30,
    "report": 300,
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
    """The pipeline on a disk of its own with so much space left; yields it and how to get more."""
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=256m", "tmpfs") as disk:
        folder = disk / "repository"
        shutil.copytree(pipeline.folder, folder, symlinks=True)
        usage = os.statvfs(disk)
        used_kib = (usage.f_blocks - usage.f_bfree) * usage.f_frsize // KIB
        mount("-o", f"remount,size={used_kib + free_kib}k", str(disk))
        yield Pipeline(folder), lambda: mount("-o", "remount,size=256m", str(disk))


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_is_one_line_and_the_stage_goes_on_when_there_is_space(at, tmp_path, stage):
    pipeline, rehearsal = at(stage)
    before = pipeline.results()
    with small_disk(pipeline, tmp_path, FREE_KIB[stage]) as (cramped, make_space):
        process = cramped.start_bare(stage)
        said = process.communicate()[0]
        assert process.returncode == 2, said
        assert "Traceback" not in said
        last = said.splitlines()[-1]
        assert last.startswith(f"songcast {stage}: ")
        assert "disk is full" in last or "No space left" in last
        found = cramped.results()
        assert {name: found.get(name) for name in before} == before
        assert cramped.half_written() == []
        make_space()
        cramped.run_stage(stage)
        assert list(differences(cramped, rehearsal, spoiled="FAILED")) == []
        assert cramped.half_written() == []


@pytest.mark.parametrize("stage", ["prepare", "register"])
def test_a_read_only_checkout_is_one_line(at, tmp_path, stage):
    pipeline, _ = at(stage)
    before = pipeline.results()
    folder = pipeline.folder
    with mounted(tmp_path / "disk", "--bind", str(folder)) as disk:
        mount("-o", "remount,bind,ro", str(disk))
        process = Pipeline(disk).start_bare(stage)
        said = process.communicate()[0]
    assert process.returncode == 2, said
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith(f"songcast {stage}: ")
    assert "ead-only" in said
    assert pipeline.results() == before

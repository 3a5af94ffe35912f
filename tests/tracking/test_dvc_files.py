"""What DVC leaves half-written is mended, what anybody else left is not."""

import fcntl
import subprocess
import sys

import pytest

from songcast.tracking.dvc_files import mend

WHOLE = "schema: '2.0'\nstages:\n  prepare:\n    cmd: x\n    outs:\n    - path: prepared\n"
LATER = WHOLE + "  train:\n    cmd: y\n"


@pytest.fixture
def home(tmp_path):
    (tmp_path / ".dvc" / "tmp").mkdir(parents=True)
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "dvc.lock").write_text(WHOLE)
    assert not mend(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kept", range(0, len(LATER), 7))
def test_a_lock_that_was_cut_off_becomes_the_last_whole_one(home, kept):
    cut = LATER[:kept]
    cut_off = not cut.endswith("\n")  # else it is one that DVC reads
    (home / "dvc.lock").write_text(cut)
    assert mend(home) == cut_off
    assert (home / "dvc.lock").read_text() == (WHOLE if cut_off else cut)
    assert list(home.glob(".songcast-*")) == []


def test_a_whole_lock_is_left_and_is_the_next_to_come_back(home):
    (home / "dvc.lock").write_text(LATER)
    assert not mend(home)
    assert (home / "dvc.lock").read_text() == LATER
    (home / "dvc.lock").write_text("")
    assert mend(home)
    assert (home / "dvc.lock").read_text() == LATER


@pytest.mark.parametrize("content", [f"<<<<<<< HEAD\n{WHOLE}", None])
def test_conflicts_and_a_lock_that_was_removed_are_left(home, content):
    lock = home / "dvc.lock"
    lock.write_text(content) if content else lock.unlink()
    assert not mend(home)
    assert content is None or lock.read_text() == content
    assert lock.exists() == bool(content)


def test_without_a_copy_nothing_is_put_in_its_place(home):
    (home / ".dvc" / "tmp" / "dvc.lock").unlink()
    (home / "dvc.lock").write_text("sche")
    assert not mend(home)
    assert (home / "dvc.lock").read_text() == "sche"


def test_an_empty_rwlock_is_removed_and_no_other(home):
    rwlock = home / ".dvc" / "tmp" / "rwlock"
    rwlock.write_text("{}")
    mend(home)
    assert rwlock.read_text() == "{}"
    rwlock.write_text("")
    mend(home)
    assert not rwlock.exists()


def test_while_dvc_is_at_work_nothing_is_touched(home):
    (home / "dvc.lock").write_text("")
    with (home / ".dvc" / "tmp" / "lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert not mend(home)
    assert (home / "dvc.lock").read_text() == ""


def test_where_there_is_no_repository_it_does_nothing(tmp_path):
    assert not mend(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_so_in_one_line(home):
    (home / "dvc.lock").write_text("sche")
    done = subprocess.run(
        [sys.executable, "-m", "songcast.tracking.dvc_files"],
        cwd=home,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    assert "dvc.lock was cut off" in done.stdout
    assert (home / "dvc.lock").read_text() == WHOLE

"""Files and folders are written whole or not at all."""

import errno
import subprocess
import sys

import pytest

from songcast.errors import disk_fault
from songcast.files import atomic_folder, atomic_path, sweep


def write(folder, text):
    with atomic_folder(folder) as scratch:
        (scratch / "inner").mkdir()
        (scratch / "inner" / "note.txt").write_text(text)


def names(folder):
    return [path.name for path in folder.iterdir()]


def read(folder):
    return (folder / "inner" / "note.txt").read_text()


def test_a_folder_is_replaced_whole(tmp_path):
    for text in ("one", "two"):
        write(tmp_path / "notes", text)
        assert read(tmp_path / "notes") == text
        assert names(tmp_path) == ["notes"]


def test_a_failed_write_leaves_the_old_folder(tmp_path):
    write(tmp_path / "notes", "old")
    with pytest.raises(ValueError, match="broken"), atomic_folder(tmp_path / "notes") as scratch:
        (scratch / "note.txt").write_text("new")
        raise ValueError("broken")
    assert read(tmp_path / "notes") == "old"
    assert names(tmp_path) == ["notes"]


def test_a_failed_rename_leaves_the_old_folder(tmp_path, monkeypatch):
    write(tmp_path / "notes", "old")
    rename = type(tmp_path).rename

    def fail(path, target):
        if path.name == ".notes.writing":
            raise OSError(errno.EIO, "broken")
        return rename(path, target)

    monkeypatch.setattr(type(tmp_path), "rename", fail)
    with pytest.raises(OSError, match="broken"):
        write(tmp_path / "notes", "new")
    assert read(tmp_path / "notes") == "old"


def test_a_kill_between_the_two_renames_is_repaired_by_the_next_call(tmp_path):
    write(tmp_path / "notes", "old")
    (tmp_path / "notes").rename(tmp_path / ".notes.replaced")
    write(tmp_path / ".notes.writing", "half")
    with pytest.raises(ValueError, match="broken"), atomic_folder(tmp_path / "notes"):
        assert read(tmp_path / "notes") == "old"
        raise ValueError("broken")
    assert names(tmp_path) == ["notes"]


def test_sweep_removes_the_files_of_killed_processes_only(tmp_path):
    script = (
        "import os, sys; from songcast.files import atomic_path\n"
        "with atomic_path(sys.argv[1]): os._exit(9)"
    )
    killed = subprocess.run([sys.executable, "-c", script, tmp_path / "note.txt"])
    assert killed.returncode == 9
    (abandoned,) = tmp_path.iterdir()
    with atomic_path(tmp_path / "note.txt") as current:
        sweep(tmp_path)
        assert not abandoned.exists()
        current.write_text("whole")
    assert names(tmp_path) == ["note.txt"]


def test_a_disk_fault_is_recognised_also_as_the_cause_of_another_error():
    denied = "a.txt: cannot be read or written (reason); check permissions"
    for number, line in [
        (errno.ENOSPC, "a.txt: the disk is full; free some space and run it again"),
        (errno.EROFS, denied),
        (errno.EACCES, denied),
        (errno.EIO, None),
    ]:
        error = RuntimeError("cannot save")
        error.__cause__ = OSError(number, "reason", "a.txt")
        assert disk_fault(error) == disk_fault(error.__cause__) == line

"""Files and folders are whole or not there, whatever happens to their writers."""

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


def test_a_folder_whose_writer_fails_is_what_it_was(tmp_path):
    write(tmp_path / "notes", "old")
    with pytest.raises(ValueError, match="broken"), atomic_folder(tmp_path / "notes") as scratch:
        (scratch / "note.txt").write_text("new")
        raise ValueError("broken")
    assert read(tmp_path / "notes") == "old"
    assert names(tmp_path) == ["notes"]


def test_a_folder_that_cannot_take_its_name_leaves_the_old_one(tmp_path, monkeypatch):
    write(tmp_path / "notes", "old")
    rename = type(tmp_path).rename

    def refused(path, target):
        if path.name == ".notes.writing":
            raise OSError(errno.EIO, "broken")
        return rename(path, target)

    monkeypatch.setattr(type(tmp_path), "rename", refused)
    with pytest.raises(OSError, match="broken"):
        write(tmp_path / "notes", "new")
    assert read(tmp_path / "notes") == "old"


def test_what_a_kill_between_two_renames_left_is_put_back_by_the_next_writer(tmp_path):
    write(tmp_path / "notes", "old")
    (tmp_path / "notes").rename(tmp_path / ".notes.replaced")
    write(tmp_path / ".notes.writing", "half")
    with pytest.raises(ValueError, match="broken"), atomic_folder(tmp_path / "notes"):
        assert read(tmp_path / "notes") == "old"
        raise ValueError("broken")
    assert names(tmp_path) == ["notes"]


def test_half_written_files_of_the_dead_are_swept_and_those_of_the_living_stay(tmp_path):
    script = (
        "import os, sys; from songcast.files import atomic_path\n"
        "with atomic_path(sys.argv[1]): os._exit(9)"
    )
    killed = subprocess.run([sys.executable, "-c", script, tmp_path / "note.txt"])
    assert killed.returncode == 9
    (dead,) = tmp_path.iterdir()
    with atomic_path(tmp_path / "note.txt") as living:
        sweep(tmp_path)
        assert not dead.exists()
        living.write_text("whole")
    assert names(tmp_path) == ["note.txt"]


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "a.txt: the disk is full; free some space and run it again"),
        (errno.EROFS, "a.txt: cannot be read or written (said); check permissions"),
        (errno.EACCES, "a.txt: cannot be read or written (said); check permissions"),
        (errno.EIO, None),
    ],
)
def test_a_fault_of_the_disk_is_found_behind_what_a_library_made_of_it(number, said):
    assert disk_fault(OSError(number, "said", "a.txt")) == said
    error = RuntimeError("cannot save")
    error.__cause__ = OSError(number, "said", "a.txt")
    assert disk_fault(error) == said

"""Arrays on disk: as numpy reads them, and one thread at a time."""

import threading
import time

import numpy as np
import pytest

from songcast.data.arrays import open_array


def test_it_is_what_numpy_reads_and_cannot_be_written(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.arange(12, dtype=np.int16).reshape(6, 2))
    array = open_array(path)
    assert np.array_equal(array, np.load(path))
    assert array.dtype == np.int16
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


def test_a_pickle_is_not_loaded(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="objects"):
        open_array(path)


def test_no_two_threads_parse_a_header_at_once(tmp_path, monkeypatch):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros(3))
    load, inside, most = np.load, [], []

    def slow_load(*args, **kwargs):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.01)
        inside.pop()
        return load(*args, **kwargs)

    monkeypatch.setattr(np, "load", slow_load)
    threads = [threading.Thread(target=open_array, args=(path,)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 6

"""What a model that is gone has left is freed, and all threads share few arenas."""

import platform
import re
import subprocess
import sys

import numpy as np
import pytest

from songcast.backend import import_keras
from songcast.serving.heap import sweep

ARENAS = """
import ctypes, threading
from songcast.serving.heap import limit_arenas
assert limit_arenas()
all_there = threading.Barrier(8)
def allocate():
    all_there.wait()
    kept = [bytes(10_000) for _ in range(100)]
    all_there.wait()
threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
libc = ctypes.CDLL(None)
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""


def test_kernels_are_forgotten_and_a_network_says_the_same_again(monkeypatch):
    keras = import_keras()
    from tensorflow.python.eager import context

    network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    rows = np.arange(12.0, dtype=np.float32).reshape(4, 3)
    before = network.predict_on_batch(rows)
    cleared = []
    clear = context.Context.clear_kernel_cache
    monkeypatch.setattr(
        context.Context, "clear_kernel_cache", lambda self: cleared.append(clear(self))
    )
    sweep()
    assert len(cleared) == 1
    np.testing.assert_array_equal(network.predict_on_batch(rows), before)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="arenas are glibc's")
def test_many_threads_share_few_arenas():
    told = subprocess.run(
        [sys.executable, "-c", ARENAS], capture_output=True, text=True, check=True
    ).stdout
    assert 1 <= len(re.findall(r"<heap nr=", told)) <= 2

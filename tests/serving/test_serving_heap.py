"""What a model that is gone has left is freed, and all threads share few arenas."""

import platform
import re
import subprocess
import sys

import numpy as np
import pytest

from songcast.forecasting.keras_backend import import_keras
from songcast.serving import heap

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

# Small pieces, each followed by one that stays: nothing leaves the heap's end by itself.
FREED = """
import ctypes, psutil
from songcast.serving.heap import trim
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
pieces = []
for _ in range(1000):
    pieces.append(libc.malloc(100_000))
    libc.malloc(2000)
    ctypes.memset(pieces[-1], 1, 100_000)
for piece in pieces: libc.free(ctypes.c_void_p(piece))
print(psutil.Process().memory_info().rss)
trim()
print(psutil.Process().memory_info().rss)
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
    heap.sweep()
    assert len(cleared) == 1
    np.testing.assert_array_equal(network.predict_on_batch(rows), before)


def test_memory_is_trimmed_after_work_but_not_again_at_once(monkeypatch):
    now, trims = [1000.0], []
    monkeypatch.setattr(heap.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(heap, "trim", lambda: trims.append(now[0]))
    trimmer = heap.Trimmer()
    for now[0] in (1000.0, 1001.0, 1000.0 + heap.TRIM_SECONDS - 1, 1000.0 + heap.TRIM_SECONDS):
        trimmer()
    assert trims == [1000.0, 1000.0 + heap.TRIM_SECONDS]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the trimming is glibc's")
def test_trimming_gives_free_memory_back():
    told = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    before, after = map(int, told.stdout.split())
    assert after < before - 40e6


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="arenas are glibc's")
def test_many_threads_share_few_arenas():
    told = subprocess.run(
        [sys.executable, "-c", ARENAS], capture_output=True, text=True, check=True
    ).stdout
    assert 1 <= len(re.findall(r"<heap nr=", told)) <= 2

"""Compiled code gives the same bits whether it was compiled just now or came from the cache."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import songcast

SOURCES = Path(songcast.__file__).parent
HEARD = """
import hashlib, sys
import numpy as np
from helpers.small_continuation import continuation_model
from helpers.small_models import RATE_HZ, music, song
from songcast.forecasting.baselines import Cascade
from songcast.forecasting.filter_bank_settings import FilterBankSettings
heard = song(music(6000))
bits = Cascade(FilterBankSettings.wide()).forecast(heard).bits
more = continuation_model().continue_song(heard, 0.2).samples
print(hashlib.sha256(bits.tobytes() + more.tobytes()).hexdigest())
"""


def compiled_functions():
    """(file, function, its decorator, what it calls) of everything numba compiles."""
    for file in sorted(SOURCES.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef):
                names = {d.id for d in node.decorator_list if isinstance(d, ast.Name)}
                calls = {
                    call.func.id
                    for call in ast.walk(node)
                    if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
                }
                for kind in names & {"compiled", "inlined"}:
                    yield file.name, node.name, kind, calls


def test_what_compiled_code_calls_is_inlined():
    found = list(compiled_functions())
    entries = {name for _, name, kind, _ in found if kind == "compiled"}
    assert {"least_squares", "stack", "levinson"} <= entries
    for file, name, _, calls in found:
        assert not calls & entries, f"{file}: {name} calls compiled code that is not inlined"


@pytest.mark.slow
def test_compiled_now_is_compiled_before_bit_for_bit(tmp_path):
    tests = Path(__file__).parents[1]
    seed = "import random; random.seed(0)"
    settings = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(tests)}
    said = [
        subprocess.run(
            [sys.executable, "-c", seed + HEARD],
            env=settings,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for _ in range(2)
    ]
    assert said[0] == said[1] != ""

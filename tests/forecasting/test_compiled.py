"""Compiled code gives the same bits whether it is compiled now or comes from the cache."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import songcast
from songcast.forecasting import compiled

SOURCES = Path(songcast.__file__).parent
TESTS = Path(__file__).parents[1]
FORECAST = """
import hashlib, random
random.seed(0)
from helpers.small_continuation import continuation_model
from helpers.small_models import music, song
from songcast.forecasting.baselines import Cascade
from songcast.forecasting.filter_bank_settings import FilterBankSettings
x = song(music(6000))
bits = Cascade(FilterBankSettings.wide()).forecast(x).bits
more = continuation_model().continue_song(x, 0.2).samples
print(hashlib.sha256(bits.tobytes() + more.tobytes()).hexdigest())
"""
CACHE_PATHS = """
from songcast.forecasting import filter_bank_kernels, stacking_kernels
print(filter_bank_kernels.least_squares.stats.cache_path)
print(stacking_kernels.mix.stats.cache_path)
"""


def output(code, **environment):
    """Standard output of a new interpreter that runs ``code``."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def compiled_functions():
    """(file, function, its decorator, the names that it calls) of everything numba compiles."""
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


def test_functions_that_compiled_code_calls_are_inlined():
    functions = list(compiled_functions())
    entries = {name for _, name, kind, _ in functions if kind == "compiled"}
    assert {"least_squares", "stack", "correct"} <= entries
    for file, name, _, calls in functions:
        assert not calls & entries, f"{file}: {name} calls compiled code that is not inlined"


def test_editing_an_inlined_helper_changes_the_cache_of_its_callers_and_of_nothing_else(tmp_path):
    copy = tmp_path / "src" / "songcast"
    shutil.copytree(SOURCES, copy, ignore=shutil.ignore_patterns("__pycache__"))
    environment = {"PYTHONPATH": str(copy.parent), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    before = output(CACHE_PATHS, **environment).split()
    assert all(path.startswith(str(tmp_path / "cache")) for path in before)
    for file, changed in (
        ("forecasting/metrics.py", [False, False]),
        ("forecasting/stacking_kernels.py", [False, True]),
        ("forecasting/linear_kernels.py", [True, True]),
    ):
        with (copy / file).open("a") as module:
            module.write("\n# edited\n")
        after = output(CACHE_PATHS, **environment).split()
        assert [a != b for a, b in zip(before, after, strict=True)] == changed, file
        before = after


def test_the_cache_is_in_the_first_writable_folder_and_code_runs_without_one(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.touch()
    module = "songcast.forecasting.linear_kernels"
    for roots, expected in (([blocked, tmp_path / "home"], tmp_path / "home"), ([blocked], None)):
        monkeypatch.setattr(compiled, "cache_roots", lambda roots=roots: roots)
        compiled.cache_folder.cache_clear()
        folder = compiled.cache_folder(module)
        assert (folder and folder.parent) == expected

    def double(x):
        return 2.0 * x

    double.__module__ = module
    assert compiled.compiled(double)(np.float64(3.0)) == 6.0
    compiled.cache_folder.cache_clear()


def test_the_cache_is_in_the_package_or_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("numba.config.CACHE_DIR", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    home = tmp_path / ".cache" / "songcast"
    assert compiled.cache_roots() == [SOURCES / "__pycache__", home]
    monkeypatch.setattr("numba.config.CACHE_DIR", str(tmp_path))
    assert compiled.cache_roots() == [tmp_path]


@pytest.mark.slow
def test_code_from_the_cache_gives_the_same_bits_as_code_compiled_now(tmp_path):
    environment = {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(TESTS)}
    first, second = (output(FORECAST, **environment) for _ in range(2))
    assert first == second != ""

"""A digest of code changes with the code that counts, and with no other."""

import shutil

import pytest

from songcast.data.code_digest import SOURCE, code_digest, import_closure
from songcast.training import feature_cache, setup

COMPUTATIONS = {"features": feature_cache, "forecaster": setup}


# Which keys a change of a module changes.
AFFECTED = {
    "forecasting/stacking_kernels.py": {"features", "forecaster"},
    "forecasting/filter_bank.py": {"features", "forecaster"},
    "data/decoding.py": {"features", "forecaster"},
    "training/feature_streams.py": {"features", "forecaster"},
    "forecasting/network.py": {"forecaster"},
    "training/batches.py": {"forecaster"},
    "training/setup.py": {"forecaster"},
    "distributed/data_parallel.py": {"forecaster"},
    "training/forecaster.py": {"forecaster"},
    "continuation/model.py": set(),
    "training/continuation.py": set(),
    "cli.py": set(),
    "errors.py": set(),
    "commands/score.py": set(),
    "evaluation/spectral.py": set(),
    "report/page.py": set(),
    "registry/gate.py": set(),
    "serving/app.py": set(),
    "stages/report.py": set(),
    "tracking/store.py": set(),
}


def test_a_change_of_code_changes_the_keys_of_what_it_computes_and_no_other(tmp_path):
    source = tmp_path / "songcast"
    shutil.copytree(SOURCE, source, ignore=shutil.ignore_patterns("__pycache__"))

    def digests():
        return {name: code_digest(*m.CODE, source=source) for name, m in COMPUTATIONS.items()}

    before = digests()
    found = {}
    for module in AFFECTED:
        path = source / module
        text = path.read_text()
        path.write_text(text + "\n# changed\n")
        found[module] = {name for name, digest in digests().items() if digest != before[name]}
        path.write_text(text)
    assert found == AFFECTED
    assert digests() == before


def test_imports_in_functions_and_of_packages_count_and_those_for_types_do_not(tmp_path):
    files = {
        "__init__.py": "import songcast.never",
        "a.py": "def f():\n    from songcast.p.b import name\n",
        "p/__init__.py": "",
        "p/b.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import songcast.types\n"
        "else:\n    from songcast import c, ignored\n",
        "c.py": "import songcast.a, json",
        "ignored/__init__.py": "import songcast.types",
        "types.py": "",
        "never.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    ignore = ("songcast", "songcast.ignored")
    found = import_closure("songcast.a", ignore=ignore, source=tmp_path)
    assert list(found) == ["songcast.a", "songcast.c", "songcast.p", "songcast.p.b"]
    with pytest.raises(ValueError, match="nowhere is not a module"):
        import_closure("songcast.nowhere", source=tmp_path)

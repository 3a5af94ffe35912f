"""The examples in docstrings run and give the results that they show."""

import doctest
import importlib
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src"


def test_every_example_in_a_docstring_gives_its_result() -> None:
    examples = 0
    for path in sorted(SOURCE.rglob("*.py")):
        if ">>>" in path.read_text():
            name = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
            results = doctest.testmod(importlib.import_module(name.removesuffix(".__init__")))
            assert results.failed == 0, f"python -m doctest {path.relative_to(SOURCE.parent)}"
            examples += results.attempted
    assert examples >= 20

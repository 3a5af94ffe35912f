"""Which small faults, put into the source one at a time, do the tests not notice?

    python benchmarks/mutations.py [--module metrics.py ...] [--mutants 20] [--seed 0] [--json]

Each mutant differs from the source in one place: a comparison, an operator, a number, a condition.
A process forked from one that has the libraries loaded runs the module's tests on it until one
fails. A survivor is a fault that no test sees, or no fault at all: read it. Programs that tests
start as processes of their own run the source as it is.
"""

import argparse
import ast
import contextlib
import copy
import importlib
import json
import os
import random
import resource
import sys
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "songcast"
# Whose tests have to notice.
TESTS = {
    "metrics.py": ["test_metrics.py"],
    "audio.py": ["test_audio.py"],
    "corpus.py": ["test_corpus.py"],
    "registry/gate.py": ["test_gate.py"],
    "registry/comparison.py": ["test_comparison.py"],
    "registry/promotion.py": ["test_promotion.py"],
    "registry/__init__.py": ["test_registry.py"],
}
LOADED = ("pytest", "hypothesis", "numpy", "scipy.signal", "soundfile", "mlflow", "songcast.bundle")
SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


def changes(node: Any) -> Iterator[ast.AST]:
    """Nodes that may stand in the place of ``node``, a node of any kind."""
    changed = copy.deepcopy(node)
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        changed.ops[0] = SWAPS[type(node.ops[0])]()
        yield changed
    elif isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in SWAPS:
        changed.op = SWAPS[type(node.op)]()
        yield changed
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield ast.Constant(node.value + 1)
    elif isinstance(node, ast.If | ast.IfExp | ast.While):
        changed.test = ast.UnaryOp(ast.Not(), changed.test)
        yield changed


def mutants(source: str) -> Iterator[tuple[int, str, str]]:
    """Yield (line, what was changed, the whole source changed there) for every possible mutant."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        for field, value in ast.iter_fields(node):
            places = list(enumerate(value)) if isinstance(value, list) else [(None, value)]
            for index, child in places:
                if not isinstance(child, ast.AST) or "TYPE_CHECKING" in ast.unparse(child)[:20]:
                    continue
                for changed in changes(child):
                    _put(node, field, index, changed)
                    said = f"{_head(child)}  ->  {_head(changed)}"
                    yield child.lineno, said, ast.unparse(ast.fix_missing_locations(tree))  # type: ignore[attr-defined]
                    _put(node, field, index, child)


def _put(node: ast.AST, field: str, index: int | None, child: ast.AST) -> None:
    if index is None:
        setattr(node, field, child)
    else:
        getattr(node, field)[index] = child


def _head(node: ast.AST) -> str:
    return ast.unparse(ast.fix_missing_locations(copy.deepcopy(node))).splitlines()[0]


def run_tests(module: str, source: str, cpu_seconds: int) -> tuple[bool, float]:
    """Whether the tests of ``module`` pass with ``source`` in its place, and their CPU time in s.

    A run that takes more than ``cpu_seconds`` has not passed.
    """
    before = os.times()
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
        os._exit(_run_in_child(module, source))
    status = os.waitpid(child, 0)[1]
    after = os.times()
    spent = after.children_user + after.children_system
    return status == 0, spent - before.children_user - before.children_system


def _run_in_child(module: str, source: str) -> int:
    import pytest

    parts = ["songcast", *Path(module).with_suffix("").parts]
    name = ".".join(part for part in parts if part != "__init__")
    compiled = compile(source, str(PACKAGE / module), "exec")
    get_code = SourceFileLoader.get_code

    def get_changed(self: SourceFileLoader, fullname: str) -> object:
        return compiled if fullname == name else get_code(self, fullname)

    SourceFileLoader.get_code = get_changed  # type: ignore[assignment, method-assign]
    for loaded in [key for key in sys.modules if key.split(".")[0] == "songcast"]:
        del sys.modules[loaded]
    tests = [str(ROOT / "tests" / test) for test in TESTS[module]]
    options = [
        "-x",
        "-q",
        "--assert=plain",
        "-p",
        "no:cacheprovider",
        "-m",
        "not slow and not browser",
    ]
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        with contextlib.suppress(SystemExit):
            return int(pytest.main([*options, *tests]))
    return 1


def check(module: str, count: int, seed: int) -> dict[str, object]:
    """Run a sample of ``count`` mutants of ``module``: how many are possible, which survive."""
    source = (PACKAGE / module).read_text()
    passed, seconds = run_tests(module, source, 600)
    if not passed:
        sys.exit(f"mutations: the tests of {module} fail on the source as it is")
    possible = list(mutants(source))
    drawn = random.Random(f"{seed} {module}").sample(possible, min(count, len(possible)))
    survivors = []
    for line, said, changed in sorted(drawn):
        if run_tests(module, changed, 20 + 5 * int(seconds))[0]:
            survivors.append(f"{module}:{line}: {said}")
            print(survivors[-1], file=sys.stderr)
    return {"possible": len(possible), "run": len(drawn), "survivors": survivors}


def main() -> None:
    lines = (__doc__ or "").splitlines()
    parser = argparse.ArgumentParser(
        description="\n".join(lines), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--module", action="append", choices=TESTS, help="default: all")
    parser.add_argument("--mutants", type=int, default=20, help="of each module, drawn at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    os.chdir(ROOT)
    for name in LOADED:
        importlib.import_module(name)
    found = {m: check(m, arguments.mutants, arguments.seed) for m in arguments.module or TESTS}
    if arguments.json:
        print(json.dumps(found, indent=1))
        return
    print("| module | mutants possible | run | noticed |\n|---|--:|--:|--:|")
    for module, said in found.items():
        run, survivors = said["run"], said["survivors"]
        assert isinstance(run, int) and isinstance(survivors, list)
        print(f"| `{module}` | {said['possible']} | {run} | {run - len(survivors)} |")


if __name__ == "__main__":
    main()

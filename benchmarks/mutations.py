"""Which small faults, put into the source one at a time, do the tests not notice?

    python benchmarks/mutations.py [--module metrics.py ...] [--mutants 20] [--seed 0] [--json]

Each mutant differs from the source in one place: a comparison, an operator, a number, a condition.
A process forked from one that has the libraries loaded runs the module's tests on it until one
fails: first those that run the changed line, the quickest before the others, then all the rest. A
survivor is a fault that no test sees, or no fault at all: read it. A test that takes 20 s of CPU
and five times its usual more counts as one that fails. Programs that tests start as processes of
their own run the source as it is, and tests marked slow or browser are left out.
"""

import argparse
import ast
import contextlib
import copy
import functools
import importlib
import importlib.metadata
import json
import os
import random
import resource
import signal
import sys
import tempfile
import threading
from collections.abc import Generator, Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import pytest

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
    "registry/files.py": ["test_registry.py", "test_serving_mlflow.py"],
}
# These bring every library that the tests need; TensorFlow alone takes 10 s to load.
LOADED = (
    "hypothesis",
    "scipy.signal",
    "songcast.stages.register",
    "small_models",
    "serving_models",
)
# Test id to (CPU seconds, lines of the module that it runs).
Known = dict[str, tuple[float, list[int]]]
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


class Plugin:
    """Gives the tests an empty MLflow store that is there already: to make one takes seconds."""

    def pytest_collection_finish(self) -> None:
        if "mlflow_store" in sys.modules:
            sys.modules["mlflow_store"]._template = empty_store  # type: ignore[attr-defined]


class Watch(Plugin):
    """Writes down the CPU time of each test and which lines of the file ``source`` it runs."""

    def __init__(self, source: Path, into: Path) -> None:
        self.source, self.into = str(source), into
        self.known: Known = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        lines: set[int] = set()

        def trace(frame: Any, _event: str, _: Any) -> Any:
            if frame.f_code.co_filename != self.source:
                return None
            lines.add(frame.f_lineno)
            return trace

        start = sum(os.times()[:4])
        threading.settrace(trace)
        sys.settrace(trace)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            threading.settrace(None)
            self.known[item.nodeid] = (sum(os.times()[:4]) - start, sorted(lines))

    def pytest_sessionfinish(self) -> None:
        self.into.write_text(json.dumps(self.known))


class Order(Plugin):
    """Runs the tests that run ``line`` first, the quickest before the others; none for ever."""

    def __init__(self, line: int, known: Known) -> None:
        self.line, self.known = line, known

    @pytest.hookimpl(trylast=True)  # slow tests are left out by then
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: self._rank(*self.known[item.nodeid]))

    def _rank(self, seconds: float, lines: list[int]) -> tuple[bool, float]:
        return (self.line not in lines, seconds)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        # CPU time, as a machine may stand still for a while. The signal ends the process.
        signal.setitimer(signal.ITIMER_PROF, 20 + 5 * self.known[item.nodeid][0])
        try:
            return (yield)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)


def run_tests(module: str, source: str, cpu_seconds: int, plugin: Plugin) -> tuple[bool, float]:
    """Whether the tests of ``module`` pass with ``source`` in its place, and their CPU time in s.

    A run that takes more than ``cpu_seconds`` has not passed.
    """
    before = os.times()
    child = os.fork()
    if child == 0:
        failed = 1
        with contextlib.suppress(BaseException):
            resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
            failed = _run_in_child(module, source, plugin)
        os._exit(failed)
    status = os.waitpid(child, 0)[1]
    after = os.times()
    spent = after.children_user + after.children_system
    return status == 0, spent - before.children_user - before.children_system


def _run_in_child(module: str, source: str, plugin: Plugin) -> int:
    parts = ["songcast", *Path(module).with_suffix("").parts]
    name = ".".join(part for part in parts if part != "__init__")
    compiled = compile(source, str(PACKAGE / module), "exec")
    get_code = SourceFileLoader.get_code

    def get_changed(self: SourceFileLoader, fullname: str) -> object:
        return compiled if fullname == name else get_code(self, fullname)

    SourceFileLoader.get_code = get_changed  # type: ignore[assignment, method-assign]
    own = {"songcast", *(path.stem for path in (ROOT / "tests").glob("*.py"))}
    for key in [k for k in sys.modules if k.split(".")[0] in own]:
        del sys.modules[key]
    tests = [str(ROOT / "tests" / test) for test in TESTS[module]]
    marks = "not slow and not browser"
    options = ["-x", "-q", "--assert=plain", "-p", "no:cacheprovider", "-m", marks]
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        return int(pytest.main([*options, *tests], plugins=[plugin]))


@functools.cache
def empty_store() -> Path:
    """Return the database from which the tests copy theirs."""
    found: Path = importlib.import_module("mlflow_store")._template()
    return found


def check(module: str, count: int, seed: int) -> tuple[int, int, list[str]]:
    """Run ``count`` mutants of ``module``, drawn; return the possible, the run, the survivors."""
    source = (PACKAGE / module).read_text()
    with tempfile.NamedTemporaryFile(suffix=".json") as notes:
        watch = Watch(PACKAGE / module, Path(notes.name))
        passed, seconds = run_tests(module, source, 1200, watch)
        if not passed:
            sys.exit(f"mutations: the tests of {module} fail on the source as it is")
        known: Known = json.loads(Path(notes.name).read_text())
    cpu_seconds = 20 + 5 * int(seconds)
    if not run_tests(module, source, cpu_seconds, Order(0, known))[0]:
        sys.exit(f"mutations: the tests of {module} fail in another order")
    possible = list(mutants(source))
    drawn = random.Random(f"{seed} {module}").sample(possible, min(count, len(possible)))
    survivors = []
    for line, said, changed in sorted(drawn):
        if run_tests(module, changed, cpu_seconds, Order(line, known))[0]:
            survivors.append(f"{module}:{line}: {said}")
            print(survivors[-1], file=sys.stderr)
    return len(possible), len(drawn), survivors


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
    sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]
    for name in LOADED:
        importlib.import_module(name)
    for plugin in importlib.metadata.entry_points(group="pytest11"):
        plugin.load()
    empty_store()
    found = {}
    if not arguments.json:
        print("| module | mutants possible | run | noticed |\n|---|--:|--:|--:|", flush=True)
    for module in arguments.module or TESTS:
        possible, run, survivors = check(module, arguments.mutants, arguments.seed)
        found[module] = {"possible": possible, "run": run, "survivors": survivors}
        if not arguments.json:
            print(f"| `{module}` | {possible} | {run} | {run - len(survivors)} |", flush=True)
    if arguments.json:
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

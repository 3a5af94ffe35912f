"""Digests of code. A cache whose content depends on code has the digest of that code in its key."""

import ast
import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

PACKAGE = "songcast"
SOURCE = Path(__file__).parents[1]
# Modules that change no result: the public interface, and classes of exceptions.
NEUTRAL = (PACKAGE, f"{PACKAGE}.errors")


def code_digest(*modules: str, source: Path = SOURCE) -> str:
    """Return a digest of the source of ``modules`` and of everything they import from songcast."""
    digest = hashlib.sha256()
    for name, path in import_closure(*modules, source=source).items():
        digest.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def import_closure(
    *modules: str, ignore: Iterable[str] = NEUTRAL, source: Path = SOURCE
) -> dict[str, Path]:
    """Return ``modules`` and all modules of songcast that they import, directly or not, by name.

    Imports inside functions count; those under ``if TYPE_CHECKING`` do not. ``ignore``: modules
    and packages to leave out, with their own imports. ``source``: folder of the package. Raises
    ``ValueError`` for a module that does not exist.
    """
    ignored, closure = set(ignore), dict[str, Path]()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in closure or ignored.intersection(_packages(name)):
            continue
        path = _file_of(name, source)
        if path is None:
            if name in modules:
                raise ValueError(f"{name} is not a module of {source}")
            continue  # a function or class that was imported from a module
        closure[name] = path
        waiting += [*_packages(name), *_imports(path.read_bytes())]
    return dict(sorted(closure.items()))


def _packages(name: str) -> list[str]:
    """Return ``name`` and the packages that hold it, less songcast itself."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(len(parts), 1, -1)] or parts


def _file_of(name: str, source: Path) -> Path | None:
    place = source.joinpath(*name.split(".")[1:])
    candidates = (place / "__init__.py", place.with_suffix(".py"))
    return next((path for path in candidates if path.is_file()), None)


@cache
def _imports(code: bytes) -> frozenset[str]:
    """Return the full names that a module imports from songcast; some are not modules."""
    nodes: list[ast.AST] = [ast.parse(code)]
    names: set[str] = set()
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            nodes += node.orelse
            continue
        nodes += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(name for name in names if name.split(".")[0] == PACKAGE)

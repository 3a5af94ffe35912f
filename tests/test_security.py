"""Bundles are safe to load, sources execute no text, and docs/security.md names existing tests."""

import ast
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np

from helpers.pickles import pickles_below

ROOT = Path(__file__).parents[1]
# The bytes of this date are not ASCII. With other dates a zip file that stores a pickle can be a
# pickle itself: it starts with the opcode "P", whose argument ends at the first line break.
DATE = (2100, 1, 1, 0, 0, 0)


def write_archive(path, members, compressed=()):
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            kind = zipfile.ZIP_DEFLATED if name in compressed else zipfile.ZIP_STORED
            file.writestr(zipfile.ZipInfo(name, DATE), content, kind)
    return path


def test_pickles_of_every_protocol_are_detected(tmp_path):
    expected = ["array.npy", "named.pkl"]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        content = pickle.dumps(Path("/"), protocol)  # calls a class when it is loaded
        (tmp_path / f"model{protocol}.bin").write_bytes(content)
        write_archive(tmp_path / f"model{protocol}.keras", {"inner": content, "text": "no"})
        expected += [f"model{protocol}.bin", f"model{protocol}.keras:inner"]
    np.save(tmp_path / "array.npy", np.array([{}], object))
    np.save(tmp_path / "numbers.npy", np.zeros(3))
    (tmp_path / "named.pkl").touch()
    (tmp_path / "dot.txt").write_text(".")
    assert sorted(pickles_below(tmp_path)) == sorted(expected)


def test_no_source_executes_text_or_a_shell_or_unpickles():
    unsafe = {".eval", ".exec", ".compile", "os.system", "os.popen", "yaml.unsafe_load"}
    found = []
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name, module = getattr(node.func, "id", ""), ""
            if isinstance(node.func, ast.Attribute):
                name, module = node.func.attr, getattr(node.func.value, "id", "?")
            keywords = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
            if (
                f"{module}.{name}" in unsafe
                or keywords.get("shell")
                or keywords.get("allow_pickle")
                or keywords.get("safe_mode", True) is not True
            ):
                found.append(f"{path.name}:{node.lineno} {name}")
    assert found == []


def test_every_test_named_in_the_security_page_exists():
    page = (ROOT / "docs" / "security.md").read_text()
    named = re.findall(r"`(?:tests/)?(test_\w+\.py)::(test_\w+)`", page)
    assert len(named) >= 15
    for file, test in named:
        texts = [path.read_text() for path in (ROOT / "tests").rglob(file)]
        assert any(f"def {test}(" in text for text in texts), f"{file}::{test}"

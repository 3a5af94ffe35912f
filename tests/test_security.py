"""Bundles are safe to load, sources execute no text, and docs/security.md names existing tests."""

import ast
import io
import json
import pickle
import re
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from helpers.mlflow_store import make_bundle
from helpers.pickles import pickles_below
from songcast import bundle
from songcast.bundle import check_archive, read_arrays, read_network
from songcast.errors import BundleError

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


def write_network(path, config):
    text = config if isinstance(config, str | bytes) else json.dumps(config)
    members = {"config.json": text, "metadata.json": "{}", "model.weights.h5": b"x"}
    return write_archive(path, members)


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


def test_an_archive_larger_unpacked_than_on_disk_is_not_read(tmp_path):
    folder = make_bundle(tmp_path / "bundle", 1.0)
    member = io.BytesIO()
    np.save(member, np.zeros(2**22))  # 32 MB
    members = {"w.npy": member.getvalue()}
    bomb = write_archive(folder / "arrays.npz", members, compressed=["w.npy"])
    assert bomb.stat().st_size < 100_000
    with pytest.raises(BundleError, match="larger unpacked than on disk") as caught:
        read_arrays(folder)
    assert "\n" not in str(caught.value)


def test_an_archive_with_overlapping_members_is_not_read(tmp_path):
    """D. Fifield, "A better zip bomb", 2019: uncompressed members that share their bytes."""
    path = write_archive(tmp_path / "a.npz", {f"{n}.npy": bytes(10_000) for n in range(3)})
    content = bytearray(path.read_bytes())
    entries = [m.start() for m in re.finditer(b"PK\x01\x02", content)]
    for at in entries:
        content[at + 42 : at + 46] = bytes(4)  # every entry points to the first member
    overlapping = content[:10_035] + content[entries[0] :]
    overlapping[-6:-2] = (10_035).to_bytes(4, "little")
    path.write_bytes(overlapping)
    with pytest.raises(BundleError, match="larger unpacked than on disk"):
        check_archive(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_with_paths_or_duplicates_is_not_read(tmp_path):
    for name in ("../w.npy", "/etc/w.npy", "a/w.npy", "..\\w.npy"):
        with pytest.raises(BundleError, match="contains paths"):
            check_archive(write_archive(tmp_path / "a.npz", {name: "x"}))
    path = write_archive(tmp_path / "a.npz", {"w": "x"})
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("w", "y")
    with pytest.raises(BundleError, match="duplicate names"):
        check_archive(path)


def test_a_damaged_archive_gives_one_line(tmp_path):
    for content in (b"", b"PK\x03\x04", b"no archive at all"):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(BundleError, match="damaged") as caught:
            check_archive(tmp_path / "a.npz")
        assert "\n" not in str(caught.value)


def layer(module, class_name, **config):
    inner = {"module": module, "class_name": class_name, "config": config}
    return {
        "module": "keras.src.models.functional",
        "class_name": "Functional",
        "config": {"layers": [inner]},
    }


def test_a_network_with_unknown_parts_is_not_built(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)  # rejected before Keras is imported
    for config, unknown in (
        (layer("keras.layers", "Lambda", function={}), "keras.layers.Lambda"),
        (layer("keras.layers", "TFSMLayer", filepath="/x"), "keras.layers.TFSMLayer"),
        (layer("keras.layers", "StringLookup", vocabulary="/x"), "keras.layers.StringLookup"),
        (layer("keras.utils", "get_file", origin="http://x"), "keras.utils.get_file"),
        (layer("os", "system"), "os.system"),
        (layer(None, "Dense"), "None.Dense"),
        (layer("keras.layers", "Dense", activation=layer("x", "__lambda__")), "x.__lambda__"),
        (layer("builtins", "function"), "builtins.function"),
        ({"class_name": ["Dense"]}, "None.*Dense"),
        ("{", "config.json"),
        ("[" * 100_000, "config.json"),
        (b"\xff", "config.json"),
    ):
        path = write_network(tmp_path / "network.keras", config)
        with pytest.raises(BundleError, match=f"unexpected part .{unknown}") as caught:
            read_network(path)
        assert "\n" not in str(caught.value)


def test_a_network_file_has_exactly_three_members(tmp_path):
    members = {"config.json": "{}", "metadata.json": "{}", "model.weights.h5": b"x"}
    for changed, name in (
        ({k: v for k, v in members.items() if k != "model.weights.h5"}, "model.weights.h5"),
        (members | {"assets": b"x"}, "assets"),
    ):
        with pytest.raises(BundleError, match=f"unexpected part .{name}"):
            read_network(write_archive(tmp_path / "network.keras", changed))


def test_all_parts_of_our_networks_are_allowed():
    import keras

    from songcast.continuation.network import build_network as build_continuation
    from songcast.continuation.settings import NetworkSettings as ContinuationSettings
    from songcast.forecasting.network import NetworkSettings, build_network
    from songcast.forecasting.notebook import build_network as build_notebook

    networks = [build_continuation(ContinuationSettings())]
    networks += [build_notebook(3, activation) for activation in ("relu", "leaky_relu")]
    for activation in ("leaky_relu", "relu", "gelu", "tanh"):
        networks.append(
            build_network(NetworkSettings(experts=3, mixtures=2, activation=activation))
        )
    for network in networks:
        config = keras.saving.serialize_keras_object(network)
        assert [p for p in bundle.parts(config) if not bundle.PARTS.fullmatch(p)] == []


def test_every_test_named_in_the_security_page_exists():
    page = (ROOT / "docs" / "security.md").read_text()
    named = re.findall(r"`(?:tests/)?(test_\w+\.py)::(test_\w+)`", page)
    assert len(named) >= 15
    for file, test in named:
        texts = [path.read_text() for path in (ROOT / "tests").rglob(file)]
        assert any(f"def {test}(" in text for text in texts), f"{file}::{test}"

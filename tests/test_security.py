"""What docs/security.md says is defended, where no other file of tests shows it."""

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
SOURCES = sorted((ROOT / "src").rglob("*.py"))
PAGE = (ROOT / "docs" / "security.md").read_text()


# Its bytes are no ASCII. With the time of many a day before the first line break of a stored
# pickle, the archive as a whole is a pickle too, which begins with the opcode "P".
DATE = (2100, 1, 1, 0, 0, 0)


def archive(path, **members):
    """A zip file whose members are stored; `deflated` lists those that are not."""
    deflated = members.pop("deflated", ())
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            kind = zipfile.ZIP_DEFLATED if name in deflated else zipfile.ZIP_STORED
            file.writestr(zipfile.ZipInfo(name, DATE), content, kind)
    return path


def network(path, config):
    """A network.keras with that config."""
    text = config if isinstance(config, str | bytes) else json.dumps(config)
    members = {"config.json": text, "metadata.json": "{}", "model.weights.h5": b"x"}
    return archive(path, **members)


# Pickles


@pytest.mark.parametrize("protocol", range(6))
def test_the_search_for_pickles_finds_them(tmp_path, protocol):
    evil = pickle.dumps(Path("/"), protocol)  # calls a class when it is read
    (tmp_path / "model.bin").write_bytes(evil)
    archive(tmp_path / "model.keras", inner=evil, text="no")
    np.save(tmp_path / "array.npy", np.array([{}], object))
    np.save(tmp_path / "sound.npy", np.zeros(3))
    (tmp_path / "named.pkl").touch()
    (tmp_path / "dot.txt").write_text(".")
    assert pickles_below(tmp_path) == ["array.npy", "model.bin", "model.keras:inner", "named.pkl"]


def test_no_source_runs_text_or_a_shell_or_reads_python_objects():
    unsafe = {".eval", ".exec", ".compile", "os.system", "os.popen", "yaml.unsafe_load"}
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            said = node.func
            name, module = getattr(said, "id", ""), ""
            if isinstance(said, ast.Attribute):
                name, module = said.attr, getattr(said.value, "id", "?")
            given = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
            if (
                f"{module}.{name}" in unsafe
                or given.get("shell")
                or given.get("allow_pickle")
                or given.get("safe_mode", True) is not True
            ):
                found.append(f"{path.name}:{node.lineno} {name}")
    assert found == []


# Archives


def test_an_archive_that_unpacks_to_more_than_it_is_is_not_read(tmp_path):
    bundle = make_bundle(tmp_path / "bundle", 1.0)
    member = io.BytesIO()
    np.save(member, np.zeros(2**22))  # 32 MB
    bomb = archive(bundle / "arrays.npz", **{"w.npy": member.getvalue()}, deflated=["w.npy"])
    assert bomb.stat().st_size < 100_000
    with pytest.raises(BundleError, match="unpacks to more than it is") as caught:
        read_arrays(bundle)
    assert "\n" not in str(caught.value)


def test_members_that_share_their_bytes_are_a_bomb_too(tmp_path):
    """D. Fifield, "A better zip bomb", 2019: nothing is compressed, much is unpacked."""
    path = archive(tmp_path / "a.npz", **{f"{n}.npy": bytes(10_000) for n in range(3)})
    content = bytearray(path.read_bytes())
    entries = [m.start() for m in re.finditer(b"PK\x01\x02", content)]
    for at in entries:
        content[at + 42 : at + 46] = bytes(4)  # every entry begins at the first member
    kept = content[:10_035] + content[entries[0] :]
    kept[-6:-2] = (10_035).to_bytes(4, "little")
    path.write_bytes(kept)
    with pytest.raises(BundleError, match="unpacks to more"):
        check_archive(path)


@pytest.mark.parametrize("name", ["../w.npy", "/etc/w.npy", "a/w.npy", "..\\w.npy"])
def test_an_archive_with_paths_is_not_read(tmp_path, name):
    with pytest.raises(BundleError, match="holds paths"):
        check_archive(archive(tmp_path / "a.npz", **{name: "x"}))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_with_a_name_twice_is_not_read(tmp_path):
    path = archive(tmp_path / "a.npz", w="x")
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("w", "y")
    with pytest.raises(BundleError, match="a name twice"):
        check_archive(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no archive at all"])
def test_what_is_no_archive_is_one_line(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(BundleError, match="not a whole archive"):
        check_archive(tmp_path / "a.npz")


def layer(module, class_name, **config):
    inner = {"module": module, "class_name": class_name, "config": config}
    return {
        "module": "keras.src.models.functional",
        "class_name": "Functional",
        "config": {"layers": [inner]},
    }


@pytest.mark.parametrize(
    ("config", "foreign"),
    [
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
    ],
)
def test_a_network_of_foreign_parts_is_not_built(tmp_path, monkeypatch, config, foreign):
    monkeypatch.setitem(sys.modules, "keras", None)  # it is not even imported for this
    with pytest.raises(BundleError, match=f"{foreign}.* is in no network") as caught:
        read_network(network(tmp_path / "network.keras", config))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [{"model.weights.h5": None}, {"assets": b"x"}])
def test_a_network_has_three_members(tmp_path, change):
    members = {"config.json": "{}", "metadata.json": "{}", "model.weights.h5": b"x"} | change
    whole = {name: content for name, content in members.items() if content is not None}
    with pytest.raises(BundleError, match=f"{next(iter(change))} is in no network"):
        read_network(archive(tmp_path / "network.keras", **whole))


@pytest.mark.parametrize("activation", ["leaky_relu", "relu", "gelu", "tanh"])
def test_what_our_networks_are_made_of_may_be_built(activation):
    import keras

    from songcast.continuation.network import build_network as build_continuation
    from songcast.continuation.settings import NetworkSettings as ContinuationSettings
    from songcast.forecasting.network import NetworkSettings, build_network
    from songcast.forecasting.notebook import build_network as build_notebook

    settings = NetworkSettings(experts=3, mixtures=2, activation=activation)
    kind = "relu" if activation == "relu" else "leaky_relu"
    for built in (
        build_network(settings),
        build_notebook(3, kind),
        build_continuation(ContinuationSettings()),
    ):
        config = keras.saving.serialize_keras_object(built)
        assert [p for p in bundle.parts(config) if not bundle.PARTS.fullmatch(p)] == []


# The page


def test_every_test_that_the_page_names_is_there():
    named = re.findall(r"`(?:tests/)?(test_\w+\.py)::(test_\w+)`", PAGE)
    assert len(named) >= 15
    for file, test in named:
        (path,) = (ROOT / "tests").rglob(file)
        assert f"def {test}(" in path.read_text(), f"{file}::{test}"

"""Bundles: complete, verified by sha256, no pickles; equal models give equal bytes."""

import json
import pickletools
import shutil
import time
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

from helpers.mlflow_store import make_bundle
from helpers.small_models import randomised, ridge, untrained
from songcast import bundle as bundles
from songcast.bundle import (
    MANIFEST,
    network_weights,
    read_arrays,
    read_manifest,
    weights_sha256,
    write_bundle,
)
from songcast.errors import BundleError
from songcast.forecasting.lstm import LstmForecaster

# TensorFlow's variables do not support NumPy 2's copy keyword, which Keras uses to save.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword"
)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def written(tmp_path):
    """A bundle with an array, a text and details."""
    folder = tmp_path / "model"
    write_bundle(
        folder,
        kind="fake",
        details={"sample_rate_hz": 44100, "params": {"units": 3}},
        arrays={"a": np.arange(6.0).reshape(2, 3), "b": np.array([1], np.int16)},
        texts={"history.csv": "step,bits\n0,7.5\n"},
    )
    return folder


def test_a_written_bundle_is_read_unchanged(written):
    manifest = read_manifest(written)
    assert manifest["kind"] == "fake"
    assert manifest["sample_rate_hz"] == 44100
    assert manifest["params"] == {"units": 3}
    assert {"songcast", "keras", "numpy"} <= set(manifest["versions"])
    assert set(manifest["files"]) == {"arrays.npz", "history.csv"}
    arrays = read_arrays(written)
    np.testing.assert_array_equal(arrays["a"], [[0, 1, 2], [3, 4, 5]])
    assert arrays["b"].dtype == np.int16
    assert (written / "history.csv").read_text() == "step,bits\n0,7.5\n"


def test_a_model_written_at_different_times_gives_the_same_bytes(tmp_path):
    lstm, linear = randomised("none", seed=3), ridge()
    for name in ("one", "two"):
        lstm.save(tmp_path / name, {"params": {}}, "step\n0\n")
        linear.save(tmp_path / f"ridge-{name}", {})
        if name == "one":
            time.sleep(2.0)  # archives have dates with a resolution of two seconds
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert content(tmp_path / "ridge-one") == content(tmp_path / "ridge-two")


def test_equal_models_built_separately_give_the_same_bytes(tmp_path):
    # Memory addresses must not matter. Every stage runs in a new process, in which Keras numbers
    # unnamed objects from the start.
    for name in ("one", "two"):
        keras.utils.clear_session()
        randomised("none", seed=3).save(tmp_path / name, {})
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_the_digest_depends_on_names_types_shapes_and_values_but_not_on_their_order():
    w = {"a": np.zeros(4, np.float32), "b": np.ones(2)}
    same = {"b": np.ones(2), "a": np.zeros(4, np.float32)}
    assert weights_sha256(w) == weights_sha256(same)
    others = [
        {**w, "a": np.zeros(4, np.int32)},
        {**w, "a": np.zeros((2, 2), np.float32)},
        {**w, "a": np.array([0, 0, 0, 1e-30], np.float32)},
        {"c": w["a"], "b": w["b"]},
        {"a": w["a"]},
    ]
    assert len({weights_sha256(each) for each in [w, *others]}) == 6


def test_the_digest_in_the_manifest_is_that_of_the_networks_weights(tmp_path):
    model = randomised("ridge", seed=4)
    model.save(tmp_path / "m", {})
    taps = {f"taps_{n}": array for n, array in model.front_end.taps.items()}
    expected = weights_sha256({**network_weights(model.network), **taps})
    assert read_manifest(tmp_path / "m")["weights_sha256"] == expected
    randomised("ridge", seed=5).save(tmp_path / "other", {})
    assert read_manifest(tmp_path / "other")["weights_sha256"] != expected


def test_networks_built_twice_in_one_process_have_equal_digests():
    # Automatic names of Keras would make equal models different.
    first, second = untrained("none").network, untrained("none").network
    assert weights_sha256(network_weights(first)) == weights_sha256(network_weights(second))


def test_unknown_and_missing_settings_are_errors(tmp_path):
    randomised("none", seed=3).save(tmp_path / "m", {})
    path = tmp_path / "m" / MANIFEST
    manifest = json.loads(path.read_text())
    network = manifest["network"]
    missing = {key: value for key, value in network.items() if key != "head_units"}
    for settings in (missing, {**network, "other": 1}):
        path.write_text(json.dumps({**manifest, "network": settings}))
        with pytest.raises(BundleError, match=r"made by another version of songcast"):
            LstmForecaster.load(tmp_path / "m")


def test_an_altered_or_missing_file_is_named(written):
    for name in ("arrays.npz", "history.csv"):
        file = written / name
        whole = file.read_bytes()
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(BundleError, match=f"{name}: missing or altered") as caught:
            read_manifest(written)
        assert "\n" not in str(caught.value)
        assert read_manifest(written, verify=False)["kind"] == "fake"
        file.unlink()
        with pytest.raises(BundleError, match=f"{name}: missing or altered"):
            read_manifest(written)
        file.write_bytes(whole)


def test_a_folder_with_no_bundle_is_an_error_that_says_what_to_do(tmp_path):
    folder = tmp_path / "model"
    for make in (lambda: None, folder.mkdir, lambda: (folder.rmdir(), folder.touch())):
        make()
        with pytest.raises(BundleError, match=r"model: no model bundle here .*make run"):
            read_manifest(folder)


def test_an_invalid_manifest_is_an_error(written):
    for text in [
        "",
        "{",
        "[]",
        "null",
        '"x"',
        "{}",
        '{"kind": "lstm"}',
        '{"files": {}, "weights_sha256": "0"}',
        b"\xff\xfe",
        '{"files": ["a"], "kind": "lstm", "weights_sha256": "0"}',
        '{"files": null, "kind": "lstm", "weights_sha256": "0"}',
    ]:
        (written / "bundle.json").write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(BundleError, match=r"bundle\.json: not a valid bundle\.json"):
            read_manifest(written)


def test_files_outside_the_bundle_are_refused_even_with_the_right_digest(written):
    (written.parent / "secret").write_text("x")
    (written / "sub" / "sub").mkdir(parents=True)
    (written / "sub" / "sub" / "file").write_text("x")
    path = written / MANIFEST
    manifest = json.loads(path.read_text())
    for name in ["../secret", "sub/sub/file", "/etc/hostname", "..", ""]:
        target = written / name
        digest = bundles.sha256_of_file(target) if target.is_file() else "0"
        files = {**manifest["files"], name: digest}
        path.write_text(json.dumps({**manifest, "files": files}))
        with pytest.raises(BundleError):
            read_manifest(written)


def members(path: Path, blob: bytes):
    """The file and, if it is an archive, its members."""
    yield path.name, blob
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                yield f"{path.name}:{name}", archive.read(name)


def test_no_bundle_holds_a_pickle(tmp_path):
    randomised("ridge").save(tmp_path / "lstm", {}, "step\n0\n")
    ridge().save(tmp_path / "ridge", {})
    seen = []
    for path in [*(tmp_path / "lstm").iterdir(), *(tmp_path / "ridge").iterdir()]:
        for name, blob in members(path, path.read_bytes()):
            seen.append(name)
            assert not name.endswith((".pkl", ".pickle"))
            if blob.startswith(b"\x80"):  # how pickles of protocol 2 and later begin
                with pytest.raises(ValueError, match=r"."):
                    list(pickletools.genops(blob))
            if name.endswith(".npy"):
                header = blob[:200].decode("latin1")
                assert "|O" not in header
    assert {"network.keras:model.weights.h5", "arrays.npz:taps_1.npy"} <= set(seen)


def test_arrays_of_python_objects_are_not_written(tmp_path):
    ridge().save(tmp_path / "ridge", {})
    with zipfile.ZipFile(tmp_path / "ridge" / "arrays.npz") as archive:
        assert all(name.endswith(".npy") for name in archive.namelist())
    with np.load(tmp_path / "ridge" / "arrays.npz", allow_pickle=False) as stored:
        assert all(stored[name].dtype == np.float64 for name in stored.files)


def test_a_crash_during_writing_leaves_the_old_bundle(tmp_path, monkeypatch):
    folder = make_bundle(tmp_path / "model", 1.0)
    before = content(folder)

    def crash(*arguments):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(bundles, "weights_sha256", crash)
        with pytest.raises(OSError, match="disk full"):
            make_bundle(folder, 2.0)
    assert content(folder) == before
    assert read_manifest(folder)["kind"] == "fake"
    make_bundle(folder, 2.0)
    assert read_arrays(folder)["w"].tolist() == [2.0, 2.0, 2.0]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_new_bundle_replaces_the_old_one_completely(written):
    make_bundle(written, 1.0)
    assert set(content(written)) == {"bundle.json", "arrays.npz"}


def test_a_bundle_may_be_moved(written):
    moved = written.with_name("elsewhere")
    shutil.move(written, moved)
    assert read_manifest(moved)["kind"] == "fake"

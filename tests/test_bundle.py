"""Bundles: complete, verified by sha256, no pickles; equal models give equal bytes."""

import json
import shutil
import time
from pathlib import Path

import keras
import numpy as np
import pytest

from helpers.mlflow_store import make_bundle
from helpers.pickles import pickles_below
from helpers.small_models import randomised, ridge, untrained
from songcast import bundle as bundles
from songcast.bundle import (
    MANIFEST,
    read_arrays,
    read_manifest,
    weights_sha256,
    write_bundle,
)
from songcast.errors import BundleError
from songcast.forecasting.lstm import LstmForecaster


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
        history="step,bits\n0,7.5\n",
    )
    return folder


def test_a_written_bundle_is_read_unchanged(written):
    manifest = read_manifest(written)
    assert manifest["kind"] == "fake"
    assert manifest["sample_rate_hz"] == 44100
    assert manifest["params"] == {"units": 3}
    assert {"songcast", "numba", "numpy"} <= set(manifest["versions"])
    assert set(manifest["files"]) == {"weights.safetensors", "history.csv"}
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
            time.sleep(1.1)
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
    expected = weights_sha256({**model.weights, **taps})
    assert read_manifest(tmp_path / "m")["weights_sha256"] == expected
    randomised("ridge", seed=5).save(tmp_path / "other", {})
    assert read_manifest(tmp_path / "other")["weights_sha256"] != expected


def test_networks_built_twice_in_one_process_have_equal_digests():
    # Automatic names of Keras would make equal models different.
    first, second = untrained("none"), untrained("none")
    assert weights_sha256(first.weights) == weights_sha256(second.weights)


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
    for name in ("weights.safetensors", "history.csv"):
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


def test_no_bundle_holds_a_pickle(tmp_path):
    randomised("ridge").save(tmp_path / "lstm", {}, "step\n0\n")
    ridge().save(tmp_path / "ridge", {})
    assert pickles_below(tmp_path) == []
    for name in ("lstm", "ridge"):
        assert (tmp_path / name / "weights.safetensors").is_file()


def test_a_damaged_or_exchanged_file_of_weights_is_one_clear_line(tmp_path):
    for content in (b"", b"{", b"\xff" * 16, (2**40).to_bytes(8, "little") + b"{}", b"\0" * 64):
        folder = make_bundle(tmp_path / "model", 1.0)
        (folder / "weights.safetensors").write_bytes(content)
        with pytest.raises(BundleError, match=r"damaged|weights differ") as caught:
            read_arrays(folder)
        assert "\n" not in str(caught.value)
    other = make_bundle(tmp_path / "other", 2.0)
    shutil.copy(other / "weights.safetensors", make_bundle(tmp_path / "model", 1.0))
    with pytest.raises(BundleError, match="weights differ from bundle"):
        read_arrays(tmp_path / "model")


def test_a_bundle_of_an_earlier_version_says_how_to_get_a_new_one(tmp_path):
    for old in ("network.keras", "arrays.npz"):
        folder = make_bundle(tmp_path / old, 1.0)
        (folder / "weights.safetensors").rename(folder / old)
        with pytest.raises(BundleError, match=r"another version .* train again with `make run`"):
            read_arrays(folder)


def test_strided_arrays_are_written_with_their_values(tmp_path):
    array = np.arange(12.0).reshape(3, 4)
    write_bundle(tmp_path / "m", kind="fake", details={}, arrays={"a": array.T[::2]})
    np.testing.assert_array_equal(read_arrays(tmp_path / "m")["a"], array.T[::2])


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
    assert set(content(written)) == {"bundle.json", "weights.safetensors"}


def test_a_bundle_may_be_moved(written):
    moved = written.with_name("elsewhere")
    shutil.move(written, moved)
    assert read_manifest(moved)["kind"] == "fake"

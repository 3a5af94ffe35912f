"""Training lowers the code length; an interrupted training ends with the same weights."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.testing import assert_allclose, assert_array_equal

from helpers.features import open_features
from helpers.small_continuation import continuation_model
from helpers.small_models import RATE_HZ, music, randomised, untrained
from songcast.config import FitParams
from songcast.data.corpus import Corpus, PreparedSong, write_index
from songcast.distributed.data_parallel import WorkerGroup
from songcast.errors import ParamsError
from songcast.forecasting.network import code_length_bits, network_of
from songcast.stages.retrain import before_and_after
from songcast.training import forecaster
from songcast.training.batches import CropSampler
from songcast.training.checkpoint import Checkpoint
from songcast.training.feature_cache import song_features
from songcast.training.forecaster import compile_trainer, fit_forecaster
from songcast.training.validation import absolute_mixture, song_bits, validation_measures

# TensorFlow variables lack the copy keyword of NumPy 2, which Keras uses when it saves.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword"
)
PARAMS = FitParams.model_construct(epochs=3, steps_per_epoch=6, learning_rate=1e-2)
SPLITS = {"train": (0, 6000), "validation": (6100, 10600), "test": (10700, 12000)}


@pytest.fixture(scope="module", autouse=True)
def a_short_average():
    """Of the weights, as the trainings are short."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forecaster, "AVERAGE_MOMENTUM", 0.8)
        yield


def prepared(folder: Path, slug: str, channels: int, seed: int) -> PreparedSong:
    samples = music(12000, channels, seed)
    folder.mkdir(exist_ok=True)
    np.save(folder / f"{slug}.npy", samples)
    return PreparedSong(
        slug=slug,
        source=f"{slug}.wav",
        sha256=f"{seed:064x}",
        source_sample_rate_hz=RATE_HZ,
        sample_rate_hz=RATE_HZ,
        frames=len(samples),
        channels=channels,
        peak=int(np.abs(samples.astype(int)).max()),
        splits=SPLITS,
        path=folder / f"{slug}.npy",
    )


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A stereo and a mono song, and their features without a front end."""
    folder = tmp_path_factory.mktemp("corpus")
    songs = [prepared(folder, "stereo", 2, 1), prepared(folder, "mono", 1, 2)]
    return songs, open_features(songs, untrained("none").front_end, 16, folder / "f")


def train(
    corpus, folder, fingerprint="f", seed=0, params=PARAMS, on_epoch=None, on_step=None, **group
):
    """Train a small network without a front end; return it and its rows."""
    model = untrained("none", seed)
    sampler = CropSampler(
        corpus[1],
        batch_size=4,
        frames=256,
        look_back=model.settings.look_back,
        seed=seed,
    )
    checkpoint = Checkpoint(folder, fingerprint)
    network = network_of(model.settings, model.weights)
    rows = fit_forecaster(
        network,
        sampler,
        params,
        checkpoint,
        on_epoch or (lambda epoch, row: None),
        on_step,
        **group,
    )
    return network, rows


def stop_after(last: int):
    """An on_epoch that is Ctrl-C after epoch ``last``."""

    def on_epoch(epoch, row):
        if epoch == last:
            raise KeyboardInterrupt

    return on_epoch


def keras_network(model):
    return network_of(model.settings, model.weights)


def weights_of(network):
    return [np.array(w) for w in network.get_weights()]


def assert_equal_weights(a, b):
    for one, other in zip(a, b, strict=True):
        assert_array_equal(one, other)


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):
    """Weights and rows of an uninterrupted training."""
    model, rows = train(corpus, tmp_path_factory.mktemp("whole"))
    return weights_of(model), rows


def test_a_worker_computes_the_features_of_its_share_alone_and_only_to_train(tmp_path):
    """Four songs of one length: two for each of two workers."""
    songs = [prepared(tmp_path / "songs", slug, 1, seed) for seed, slug in enumerate("abcd")]
    computed = {}
    for rank in (0, 1):
        folder = tmp_path / f"machine {rank}"

        class Worker(WorkerGroup):
            workers = 2

        Worker.rank = rank
        features = song_features(songs, untrained("none").front_end, 16, folder)
        short = PARAMS.model_copy(update={"epochs": 1})
        _, rows = train((songs, features), tmp_path / f"c{rank}", params=short, group=Worker())
        assert len(rows) == 1
        computed[rank] = {path.parent.name[0] for path in folder.glob("*/done")}
    assert computed == {0: {"a", "b"}, 1: {"c", "d"}}
    # A training that has ended needs no features.
    features = song_features(songs, untrained("none").front_end, 16, tmp_path / "none")
    _, again = train((songs, features), tmp_path / "c0", params=short)
    assert len(again) == 1
    assert not (tmp_path / "none").exists()


def test_retrain_measures_the_same_where_features_are_missing(corpus, tmp_path, monkeypatch):
    songs, features = corpus
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    measured = (
        Corpus(sample_rate_hz=RATE_HZ, songs=tuple(songs)),
        untrained("none"),
        randomised("none", spread=0.1),
    )
    missing = song_features(songs, measured[1].front_end, 16, tmp_path / "features")
    results = before_and_after(*measured, missing)
    assert results == before_and_after(*measured, features)
    assert results.keys() == {"stereo", "mono"}


def test_training_lowers_the_code_length_on_validation_passages(corpus, finished):
    weights, rows = finished
    assert [row["step"] for row in rows] == [0.0, 1.0, 2.0]
    assert all(set(row) == set(rows[0]) for row in rows)
    network = keras_network(untrained("none"))
    before = np.mean(song_bits(network, corpus[1]))
    network.set_weights(weights)
    after = np.mean(song_bits(network, corpus[1]))
    assert after < before - 0.1
    # The result is the average of the best epoch.
    assert after == pytest.approx(min(row["validation_bits_per_sample"] for row in rows), abs=1e-6)


def test_weights_and_rows_depend_on_the_seed_alone(corpus, finished, tmp_path):
    model, rows = train(corpus, tmp_path / "a")
    assert rows == finished[1]
    assert_equal_weights(weights_of(model), finished[0])
    short = PARAMS.model_copy(update={"epochs": 1})
    assert train(corpus, tmp_path / "b", seed=1, params=short)[1] != rows[:1]


def test_a_resumed_training_ends_like_an_uninterrupted_one(corpus, finished, tmp_path):
    last = 0
    with pytest.raises(KeyboardInterrupt):
        train(corpus, tmp_path, on_epoch=stop_after(last))
    done = []
    model, rows = train(corpus, tmp_path, on_epoch=lambda epoch, row: done.append(epoch))
    assert done == list(range(last + 1, PARAMS.epochs))
    assert rows == finished[1]
    assert_equal_weights(weights_of(model), finished[0])
    # A third start has nothing to do.
    model, rows = train(corpus, tmp_path, on_epoch=lambda epoch, row: done.append(epoch))
    assert len(done) == PARAMS.epochs - last - 1
    assert rows == finished[1]
    assert_equal_weights(weights_of(model), finished[0])


@pytest.mark.slow
def test_a_training_interrupted_within_an_epoch_repeats_that_epoch(corpus, finished, tmp_path):
    def on_step(step):
        if step == PARAMS.steps_per_epoch + 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(corpus, tmp_path, on_step=on_step)
    steps = []
    model, rows = train(corpus, tmp_path, on_step=steps.append)
    first = PARAMS.steps_per_epoch + 1
    assert steps == list(range(first, PARAMS.epochs * PARAMS.steps_per_epoch + 1))
    assert rows == finished[1]
    assert_equal_weights(weights_of(model), finished[0])


def test_a_training_does_not_resume_from_another_trainings_checkpoint(corpus, finished, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(corpus, tmp_path, "other", seed=5, on_epoch=stop_after(0))
    done = []
    model, _ = train(corpus, tmp_path, "f", on_epoch=lambda epoch, row: done.append(epoch))
    assert done == [0, 1, 2]
    assert_equal_weights(weights_of(model), finished[0])


def test_a_checkpoint_keeps_its_run_id_has_no_pickle_and_can_be_deleted(corpus, tmp_path):
    folder = tmp_path / "checkpoints"
    trainer = compile_trainer(keras_network(untrained("none")), PARAMS)
    checkpoint = Checkpoint(folder, "f")
    checkpoint.run_id = "abc"
    checkpoint.save(trainer, [{"step": 0.0}], None)
    assert Checkpoint(folder, "f").run_id == "abc"
    assert Checkpoint(folder, "g").run_id is None
    with np.load(folder / "state.npz", allow_pickle=False) as stored:
        assert all(stored[name].dtype != object for name in stored.files)
    assert [path.name for path in folder.iterdir()] == ["state.npz"]
    checkpoint.clear()
    assert not folder.exists()


def test_a_training_that_diverges_in_every_epoch_is_an_error_in_one_line(corpus, tmp_path):
    with pytest.raises(ParamsError, match=r"diverged in every epoch; lower learning_rate"):
        train(
            corpus,
            tmp_path,
            params=PARAMS.model_copy(update={"epochs": 1, "learning_rate": np.nan}),
        )


def test_a_crash_while_writing_a_checkpoint_keeps_the_previous_one(tmp_path, monkeypatch):
    trainer = compile_trainer(keras_network(untrained("none")), PARAMS)
    checkpoint = Checkpoint(tmp_path, "f")
    checkpoint.save(trainer, [{"step": 0.0}], None)

    def crash(file, **arrays):
        Path(file).write_bytes(b"half of it")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", crash)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(trainer, [{"step": 0.0}, {"step": 1.0}], None)
    assert Checkpoint(tmp_path, "f").restore(trainer) == [{"step": 0.0}]
    assert [path.name for path in tmp_path.iterdir()] == ["state.npz"]


# The loss.


def test_the_loss_is_the_code_length_of_the_discrete_mixture():
    rng = np.random.default_rng(0)
    rows, n, m = 3, 400, 4
    unit = rng.uniform(0.5, 200.0, (rows, n))
    samples = np.rint(unit * rng.normal(0, 1.5, (rows, n)))
    weights = np.log(rng.dirichlet(np.ones(m), (rows, n)))
    locations = rng.normal(0, 0.5, (rows, n, m))
    scales = rng.uniform(-2.0, 1.0, (rows, n, m))
    mixture = np.concatenate([weights, locations, scales], -1).astype(np.float32)
    target = np.stack([samples / unit, 1.0 / unit], -1).astype(np.float32)
    loss = np.array(code_length_bits(target, mixture))
    bits = absolute_mixture(mixture, unit.astype(np.float32)).bits(samples)
    assert loss.shape == (rows, n)
    # The uniform share, 2^-16, is left out of the loss: it shows where all is improbable.
    ordinary = bits < 14
    assert ordinary.mean() > 0.95
    assert_allclose(loss[ordinary], bits[ordinary], atol=2e-3)
    assert np.median(np.abs(loss - bits)[ordinary]) < 1e-4


def test_the_loss_is_finite_and_falls_towards_the_sample_for_any_forecast():
    target = np.array([[[50.0, 0.1]]], np.float32)

    def loss(location, log_scale):
        mixture = np.array([[[0.0, location, log_scale]]], np.float32)
        return np.array(code_length_bits(target, mixture)).item()

    for log_scale in (-30.0, -6.0, 0.0, 6.0, 30.0):
        assert np.isfinite(loss(-1e4, log_scale))
    far = [loss(location, -3.0) for location in (-100.0, 0.0, 40.0, 50.0)]
    assert far == sorted(far, reverse=True)


def test_validation_measures_are_those_of_the_forecast_on_the_passage(corpus, tmp_path):
    songs, features = corpus
    network = keras_network(randomised("none", spread=0.1))
    measures = validation_measures(network, features[0], songs[0].samples)
    # One block of 4096 from the first whole frame of the passage
    start = -(-SPLITS["validation"][0] // 16) * 16
    x = songs[0].samples[start : start + 4096].astype(np.float64)
    (bits,) = song_bits(network, features[:1])
    assert measures["bits_per_sample"] == pytest.approx(bits, 1e-9)
    # Without a front end the network's error is the sample minus its correction of zero.
    network.set_weights([0 * w for w in weights_of(network)])
    silent = validation_measures(network, features[0], songs[0].samples)
    assert silent["prediction_gain_db"] == pytest.approx(0.0, abs=1e-4)
    assert np.sum(x**2) > 0


# The stage, killed.

SMALL_FIT = {
    "front_end": "none",
    "look_back": 8,
    "step_frames": 16,
    "units": 6,
    "layers": 1,
    "head_units": [8],
    "epochs": 6,
    "steps_per_epoch": 20,
    "batch_size": 4,
    "crop_frames": 512,
}


def small_params() -> str:
    """The repository's own params.yaml with a short training."""
    params = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())
    params["train"] |= SMALL_FIT
    return yaml.safe_dump(params)


@pytest.mark.slow
def test_the_stage_ends_with_the_same_weights_after_a_kill(tmp_path, monkeypatch):
    from helpers.mlflow_store import use_repository

    homes = [use_repository(tmp_path / name, monkeypatch) for name in ("whole", "killed")]
    continuation = continuation_model()
    for home in homes:
        songs = [
            prepared(home / "prepared", "stereo", 2, 1),
            prepared(home / "prepared", "m", 1, 2),
        ]
        write_index(home / "prepared", RATE_HZ, songs)
        (home / "params.yaml").write_text(small_params())
        continuation.save(home / "models" / "continuation", {"sample_rate_hz": RATE_HZ})

    def start(home):
        return subprocess.Popen(
            [sys.executable, "-m", "songcast.stages.train"],
            cwd=home,
            env={**os.environ, "DVC_ROOT": str(home)},
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(process):
        output = process.communicate()[1]
        assert process.returncode == 0, output
        return output

    whole = start(homes[0])
    finish(whole)
    killed = start(homes[1])
    state = homes[1] / "checkpoints" / "train" / "state.npz"
    while not state.is_file():
        assert killed.poll() is None, killed.communicate()[1]
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert not (homes[1] / "models" / "train" / "bundle.json").exists()
    output = finish(start(homes[1]))
    assert "epoch 1 of 6" not in output
    assert "epoch 6 of 6" in output
    bundles = [home / "models" / "train" for home in homes]
    one, other = (json.loads((bundle / "bundle.json").read_text()) for bundle in bundles)
    assert one["weights_sha256"] == other["weights_sha256"]
    assert one["files"] == other["files"]
    histories = [(bundle / "history.csv").read_text() for bundle in bundles]
    assert histories[0] == histories[1]
    assert len(histories[0].splitlines()) == 7
    assert not (homes[1] / "checkpoints" / "train").exists()
    shutil.rmtree(tmp_path / "whole" / "mlruns")


@pytest.mark.slow
def test_these_tests_pass_on_jax():
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-m",
            "not slow",
            __file__,
        ],
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
        check=True,
    )

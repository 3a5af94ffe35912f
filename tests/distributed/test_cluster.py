"""Engine ray: the same results as this machine's own, on a cluster of two nodes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from helpers.features import open_features
from helpers.mlflow_store import use_repository
from helpers.prepare_params import prepare_params
from helpers.small_continuation import continuation_model
from helpers.small_models import BANK, forecaster, randomised, untrained
from helpers.small_params import REPOSITORY
from songcast.audio.songs import write_song
from songcast.config import EvaluateParams, FitParams, Params
from songcast.data.corpus import Corpus
from songcast.distributed import cluster, engine
from songcast.errors import AudioError, CorpusError, ParamsError
from songcast.files import write_json
from songcast.forecasting.front_end import FrontEndSettings
from songcast.forecasting.loading import BASELINES
from songcast.stages import forecaster as stage
from songcast.stages.evaluate import BASELINES_FILE, evaluate, evaluate_forecasters
from songcast.stages.prepare import prepare
from songcast.tracking.store import connect, experiment_id
from songcast.training.batches import CropSampler
from songcast.training.setup import open_crops

pytest.importorskip("ray")

# Ray complains of its own settings, and leaves its pipes to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\..*"),
    pytest.mark.filterwarnings(r"ignore::FutureWarning:ray\..*"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

PARAMS = prepare_params()


def snapshot(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def test_no_items_need_no_engine():
    assert list(engine.each("local", abs, [])) == []
    assert list(engine.each("ray", abs, [])) == []


def test_local_results_are_complete_from_one_process_and_from_several(monkeypatch):
    for cores in (1, 2):
        monkeypatch.setattr(engine, "free_cores", lambda cores=cores: cores)
        assert sorted(engine.each("local", abs, range(-20, 0))) == list(range(1, 21))


def test_worker_processes_do_not_run_the_main_program(tmp_path):
    """A script without the `__main__` guard of multiprocessing."""
    script = tmp_path / "script.py"
    script.write_text(
        "from songcast.distributed import engine\n"
        "engine.free_cores = lambda: 2\n"
        "print(sorted(engine.each('local', abs, [-1, -2, -3])))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout == "[1, 2, 3]\n"


def test_a_missing_ray_is_an_error_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ParamsError, match=r"engine is 'ray', and Ray is not installed: `pip") as e:
        list(engine.each("ray", abs, [1]))
    assert "\n" not in str(e.value)


@pytest.fixture(scope="module")
def two_nodes():
    """A cluster of two nodes, one core each, on loopback; the driver is connected to it."""
    settings = {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "disabled",
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    ray = cluster.import_ray()
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes.add_node(num_cpus=1)
    os.environ["RAY_ADDRESS"] = nodes.address
    try:
        nodes.wait_for_nodes()
        yield nodes
    finally:
        ray.shutdown()
        nodes.shutdown()
        del os.environ["RAY_ADDRESS"]
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture
def data(tmp_path, make_song):
    folder = tmp_path / "data"
    folder.mkdir()
    for seed, (name, rate_hz) in enumerate(
        [("a.wav", 44100), ("b.flac", 48000), ("c.ogg", 22050), ("d.wav", 32000)]
    ):
        write_song(make_song(30000, 1 + seed % 2, rate_hz, seed=seed), folder / name)
    return folder


@pytest.mark.slow
def test_two_nodes_prepare_the_same_bytes(two_nodes, data, tmp_path):
    prepare(data, tmp_path / "local", PARAMS)
    prepare(data, tmp_path / "ray", PARAMS, "ray")
    assert snapshot(tmp_path / "ray") == snapshot(tmp_path / "local")


@pytest.mark.slow
def test_two_nodes_compute_the_same_features(two_nodes, data, tmp_path):
    prepare(data, tmp_path / "prepared", PARAMS)
    songs = list(Corpus.open(tmp_path / "prepared"))
    settings = FrontEndSettings(kind="cascade", filter_bank=BANK)
    results = {
        who: open_features(songs, settings, 16, tmp_path / who, engine=who)
        for who in ("local", "ray")
    }
    assert [song.slug for song in results["ray"]] == [song.slug for song in results["local"]]
    assert len(results["ray"]) == 4
    for one, other in zip(results["ray"], results["local"], strict=True):
        for path in one.folder.glob("*.npy"):
            np.testing.assert_array_equal(np.load(path), np.load(other.folder / path.name))


@pytest.mark.slow
@pytest.mark.timeout(1800)  # on a busy machine
def test_two_nodes_evaluate_the_same(two_nodes, data, tmp_path):
    for name in ("b.flac", "c.ogg"):
        (data / name).unlink()
    models = tmp_path / "models"
    continuation_model().save(models / "continuation", {})
    for name in ("ridge", "notebook"):
        forecaster(name).save(models / name, {})
    for seed, name in enumerate(("train", "retrain")):
        model = randomised("cascade", seed)
        model.continuation = models / "continuation"
        model.save(models / name, {})
    prepare(data, tmp_path / "prepared", PARAMS)
    corpus = Corpus.open(tmp_path / "prepared")
    results = {}
    params = EvaluateParams(seconds_per_song=None, warm_up_seconds=0.0, listening_seconds=0.02)
    for who in ("local", "ray"):
        evaluated = tmp_path / f"evaluated-{who}"
        measures = evaluate_forecasters(BASELINES, models, corpus, evaluated, params, who, ".flac")
        write_json(evaluated / BASELINES_FILE, measures)
        results[who] = evaluate(
            models,
            corpus,
            evaluated,
            tmp_path / who,
            params,
            holdout_seconds=0.1,
            engine=who,
        )
    assert list(results["local"]["songs"]) == ["a", "d"]
    assert list(results["local"]["songs"]["a"]) == list(results["local"]["summary"])
    # Matrix products of the level model may round differently with another number of threads.
    for part, tolerance in (("songs", 1e-5), ("summary", 1e-5), ("continuation", 1e-3)):
        ray, local = (leaves(results[who][part]) for who in ("ray", "local"))
        assert ray == pytest.approx(local, rel=tolerance, abs=tolerance)
    for song in corpus:
        first, second = (
            snapshot(tmp_path / "local" / song.slug),
            snapshot(tmp_path / "ray" / song.slug),
        )
        assert len(first) == 5
        assert {name: len(wav) for name, wav in second.items()} == {
            name: len(wav) for name, wav in first.items()
        }


def leaves(value, where=""):
    """All numbers of a JSON document by their place in it; those that are null are left out."""
    if isinstance(value, dict | list):
        inside = value.items() if isinstance(value, dict) else enumerate(value)
        parts = [leaves(item, f"{where}/{key}") for key, item in inside]
        return {place: number for part in parts for place, number in part.items()}
    return {} if value is None else {where: value}


@pytest.mark.slow
def test_a_bad_song_is_named_and_the_others_are_decoded(two_nodes, data, tmp_path):
    (data / "bad.wav").write_bytes(b"RIFF")
    with pytest.raises(AudioError, match=r"bad\.wav: is damaged, it cannot be decoded"):
        prepare(data, tmp_path / "ray", PARAMS, "ray")
    assert len(list((tmp_path / "ray" / ".incoming").glob("[!.]*.npy"))) == 4


@pytest.mark.slow
def test_tasks_of_a_lost_worker_are_repeated_and_errors_are_raised(two_nodes, tmp_path):
    # Defined here, functions travel by value: the workers need not import this module.
    def die_once(marker):
        """Kill this worker the first time, like a lost machine; then return."""
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return marker.name

    def refuse(number):
        if number == 3:
            raise CorpusError("three is refused")
        return number

    results = engine.each("ray", die_once, [tmp_path / str(number) for number in range(3)])
    assert sorted(results) == ["0", "1", "2"]
    with pytest.raises(CorpusError, match="three is refused"):
        list(engine.each("ray", refuse, range(5)))


FIT = FitParams(
    seconds_per_song=None,
    warm_up_seconds=0.0,
    epochs=4,
    steps_per_epoch=5,
    batch_size=4,
    crop_frames=1024,
    learning_rate=1.0e-2,
    seed=0,
)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # on a busy machine
def test_two_workers_train_the_same_weights_even_if_one_is_killed(
    two_nodes, data, tmp_path, monkeypatch
):
    marker = tmp_path / "killed"

    class Deadly(CropSampler):
        """Kills the second worker once, in the middle of the third epoch."""

        def batch(self, epoch, index, rank=0, workers=1):
            if (epoch, index, rank) == (2, 3, 1) and not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().batch(epoch, index, rank, workers)

    def open_deadly_crops(*args, **more):
        sampler = open_crops(*args, **more)
        sampler.__class__ = Deadly
        return sampler

    home = use_repository(tmp_path, monkeypatch)
    prepare(data, home / "prepared", PARAMS)
    songs = list(Corpus.open(home / "prepared"))

    def train(name, workers):
        who = "ray" if workers > 1 else "local"
        model = untrained("none")
        settings = Params.load(REPOSITORY / "params.yaml")
        settings = settings.model_copy(update={"engine": who, "workers": workers})
        trained, _ = stage.train_forecaster(name, FIT, model, songs, settings=settings)
        rows = (home / "plots" / f"{name}.csv").read_text().splitlines()[1:]
        return np.array([row.split(",") for row in rows], float), trained.weights

    alone, weights = train("alone", 1)
    monkeypatch.setattr(stage, "open_crops", open_deadly_crops)
    shared, results = train("shared", 2)
    assert marker.exists()
    # Two halves of a gradient are summed in another order than the whole.
    np.testing.assert_allclose(shared, alone, rtol=1e-4)
    assert alone[-1, 2] < alone[0, 2]
    assert results.keys() == weights.keys()
    for name in weights:
        np.testing.assert_allclose(results[name], weights[name], atol=1e-3)
    client = connect()
    (run,) = client.search_runs([experiment_id(client)], "attributes.run_name = 'shared'")
    assert run.info.status == "FINISHED"
    logged = client.get_metric_history(run.info.run_id, "validation_bits_per_sample")
    assert [point.step for point in logged] == [0, 1, 2, 3]
    assert not (home / "checkpoints" / "shared").exists()


def test_an_invalid_number_of_workers_is_an_error_in_one_line(tmp_path):
    repository = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())
    for changed, line in (
        ({"workers": 2}, "workers: 2 workers need engine: ray;"),
        ({"workers": 3, "engine": "ray"}, "workers: 3 does not divide train.batch_size 16;"),
        ({"workers": 0}, "workers is 0; allowed: "),
    ):
        (tmp_path / "params.yaml").write_text(yaml.safe_dump({**repository, **changed}))
        with pytest.raises(ParamsError) as error:
            Params.load(tmp_path / "params.yaml")
        assert line in str(error.value)


def test_a_cluster_too_small_for_the_workers_is_an_error_in_one_line():
    assert cluster.worker_resources([{"CPU": 2}, {"CPU": 7}], 4) == {"CPU": 2}
    with pytest.raises(ParamsError, match="workers is 5, more than the Ray cluster has cores"):
        cluster.worker_resources([{"CPU": 3}, {"CPU": 1}], 5)


def test_an_unreachable_cluster_is_an_error_in_one_line(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ParamsError, match=r"RAY_ADDRESS is '127\.0\.0\.1:1': no Ray cluster"):
        list(engine.each("ray", abs, [1]))

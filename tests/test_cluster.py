"""Engine ray: the same results as this machine's own, on a cluster of two nodes."""

import os
import signal
import sys

import numpy as np
import pytest

from small_models import EXPERTS
from songcast import cluster, engine
from songcast.audio import write_song
from songcast.corpus import Corpus
from songcast.errors import AudioError, CorpusError, ParamsError
from songcast.featurestore import open_features
from songcast.forecasters.front_end import FrontEndSettings
from songcast.params import PrepareParams
from songcast.stages.prepare import prepare

# Ray complains of its own settings, and leaves its pipes to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\..*"),
    pytest.mark.filterwarnings(r"ignore::FutureWarning:ray\..*"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

PARAMS = PrepareParams(
    sample_rate_hz=44100,
    train_fraction=0.7,
    validation_fraction=0.1,
    test_fraction=0.2,
    guard_seconds=0.01,
    held_out=(),
)


def snapshot(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def test_no_items_need_no_engine():
    assert list(engine.each("local", abs, [])) == []
    assert list(engine.each("ray", abs, [])) == []


def test_local_results_are_all_there_from_one_process_and_from_several(monkeypatch):
    for cores in (1, 2):
        monkeypatch.setattr(engine, "free_cores", lambda cores=cores: cores)
        assert sorted(engine.each("local", abs, range(-20, 0))) == list(range(1, 21))


def test_ray_that_is_not_installed_is_one_line(monkeypatch):
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
def test_two_nodes_hear_the_same_features(two_nodes, data, tmp_path):
    prepare(data, tmp_path / "prepared", PARAMS)
    songs = list(Corpus.open(tmp_path / "prepared"))
    settings = FrontEndSettings(kind="cascade", experts=EXPERTS)
    found = {
        who: open_features(songs, settings, 16, tmp_path / who, variants=1, engine=who)
        for who in ("local", "ray")
    }
    assert [song.slug for song in found["ray"]] == [song.slug for song in found["local"]]
    assert len(found["ray"]) == 8
    for one, other in zip(found["ray"], found["local"], strict=True):
        for name, stream in one.streams.items():
            np.testing.assert_array_equal(stream, other.streams[name])


@pytest.mark.slow
def test_a_bad_song_is_named_and_the_rest_is_finished(two_nodes, data, tmp_path):
    (data / "bad.wav").write_bytes(b"RIFF")
    with pytest.raises(AudioError, match=r"bad\.wav: is text, not a song"):
        prepare(data, tmp_path / "ray", PARAMS, "ray")
    listed = (tmp_path / "ray" / ".incoming" / "finished.jsonl").read_text()
    assert listed.count('"array"') == 4


@pytest.mark.slow
def test_a_lost_worker_loses_nothing_and_a_refusal_is_raised(two_nodes, tmp_path):
    # Defined here, functions travel by value: the workers need not import this module.
    def die_once(marker):
        """Kill this worker the first time, as a lost machine would; then answer."""
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return marker.name

    def refuse(number):
        if number == 3:
            raise CorpusError("three is refused")
        return number

    found = engine.each("ray", die_once, [tmp_path / str(number) for number in range(3)])
    assert sorted(found) == ["0", "1", "2"]
    with pytest.raises(CorpusError, match="three is refused"):
        list(engine.each("ray", refuse, range(5)))


def test_a_cluster_that_is_not_there_is_one_line(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ParamsError, match=r"RAY_ADDRESS is '127\.0\.0\.1:1': no Ray cluster"):
        list(engine.each("ray", abs, [1]))

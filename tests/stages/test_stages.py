"""The pipeline, from songs in data/ to registered versions, on two short songs."""

import errno
import importlib
import json
import shutil
import subprocess
import sys
import time
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import yaml

from helpers.mlflow_store import use_repository
from helpers.small_models import music
from helpers.small_params import PARAMS, RATE_HZ
from songcast.audio.songs import Song, read_song, write_song
from songcast.bundle import read_manifest
from songcast.commands.summary import parent_line
from songcast.data.corpus import Corpus
from songcast.distributed import engine
from songcast.errors import ParamsError
from songcast.files import write_json
from songcast.forecasting.notebook import Notebook
from songcast.registry import downloads
from songcast.registry.models import load, pin
from songcast.stages import evaluate, run_stage
from songcast.tracking import store as tracking_store
from songcast.training.setup import replay_shares, select_songs

# TensorFlow variables lack the copy keyword of NumPy 2, which Keras uses when it saves.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword"
)
SONGS = {"old": 2, "new": 1}
FORECASTERS = ["persistence", "ridge", "cascade", "notebook", "train", "retrain"]
STAGES = (
    "prepare",
    "baselines",
    "continuation",
    "train",
    "retrain",
    "evaluate_baselines",
    "evaluate",
    "report",
    "register",
)


def run(stage: str) -> None:
    # As in a new process: Keras numbers unnamed operations from the start of the process.
    keras.utils.clear_session()
    module = importlib.import_module(f"songcast.stages.{stage}")
    assert module.main() in (None, 0)


def read(path):
    return json.loads(path.read_text())


def runs_and_versions():
    client = tracking_store.connect()
    result = client.search_runs([tracking_store.experiment_id(client)])
    runs = [run for run in result if run.data.tags["songcast.stage"] != "pipeline"]
    versions = client.search_model_versions("name='songcast'")
    return runs, versions


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A folder in which every stage has run once, as in a queued experiment of ``workspace``."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("pipeline")
        use_experiment(home, patch)
        (home / "data").mkdir()
        for seed, (name, channels) in enumerate(SONGS.items()):
            song = Song(samples=music(22000, channels, seed), sample_rate_hz=RATE_HZ, name=name)
            write_song(song, home / "data" / f"{name}.wav")
        (home / "params.yaml").write_text(yaml.safe_dump(PARAMS))
        for stage in STAGES:
            run(stage)
        yield home


@pytest.fixture
def home(pipeline, monkeypatch):
    return use_experiment(pipeline, monkeypatch)


def use_experiment(home, patch):
    """Work in ``home`` with ``home.parent / "workspace"`` as DVC_ROOT, as DVC does for a queue."""
    use_repository(home.parent / "workspace", patch)
    (home / "dvc.yaml").touch()
    patch.chdir(home)
    return home


def test_a_queued_experiment_changes_nothing_in_the_workspace(home):
    names = {path.name for path in (home.parent / "workspace").iterdir()}
    assert names == {"dvc.yaml", "features", "mlruns"}


def test_every_stage_writes_its_outputs(home):
    result = {path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()}
    expected = {
        "prepared/songs.json",
        "models/ridge/bundle.json",
        "models/notebook/bundle.json",
        "models/continuation/bundle.json",
        "models/train/bundle.json",
        "models/continuation/weights.safetensors",
        "models/train/weights.safetensors",
        "models/retrain/bundle.json",
        "plots/continuation.csv",
        "plots/train.csv",
        "plots/retrain.csv",
        "metrics/retrain.json",
        "evaluated/baselines.json",
        "evaluated/old/pred_notebook.flac",
        "listening/old/pred_notebook.wav",
        "metrics/evaluation.json",
        "plots/bits.csv",
        "metrics/summary.json",
        "plots/report/bits.png",
        "plots/report/forgetting.png",
        "plots/report/rhythm/old.png",
        "report.html",
        "registered.json",
    }
    assert expected <= result
    assert not [name for name in result if name.endswith((".pkl", ".pickle"))]
    assert not (home / "checkpoints" / "train").exists()


def test_the_evaluation_covers_every_forecaster_and_song(home):
    evaluation = read(home / "metrics" / "evaluation.json")
    assert list(evaluation) == ["summary", "songs", "passages", "continuation", "retraining"]
    before, after = (
        {slug: song[kind]["bits_per_sample"] for slug, song in evaluation["songs"].items()}
        for kind in ("train", "retrain")
    )
    assert evaluation["retraining"] == {
        "new_songs": ["new"],
        "new_songs_gain_bits": pytest.approx(before["new"] - after["new"]),
        "old_songs_gain_bits": pytest.approx(before["old"] - after["old"]),
    }
    short = read(home / "metrics" / "summary.json")
    assert all(isinstance(value, float) for value in short.values())  # flat, for `dvc exp show`
    assert sorted(evaluation["songs"]) == sorted(SONGS)
    assert list(evaluation["summary"]) == FORECASTERS
    keys = {"prediction_gain_db", "bits_per_sample", "lag_samples"}
    for slug, measures in evaluation["songs"].items():
        assert list(measures) == FORECASTERS
        for result in measures.values():
            assert keys <= set(result)
            assert len(result["prediction_gain_db"]) == SONGS[slug]
            assert len(result["lag_samples"]) == SONGS[slug]
            assert 0 < result["bits_per_sample"] < 17
    for name, summary in evaluation["summary"].items():
        songs = [measures[name] for measures in evaluation["songs"].values()]
        mean = np.mean([result["bits_per_sample"] for result in songs])
        assert summary["bits_per_sample"] == pytest.approx(mean)


def test_the_measures_are_those_of_the_models_forecasts(home):
    prepared = Corpus.open(home / "prepared")["new"]
    measures = read(home / "metrics" / "evaluation.json")["songs"]["new"]
    for name, uri in {
        "persistence": "persistence",
        "cascade": "cascade",
        "ridge": "models/ridge",
        "train": "models/train",
        "retrain": "models/retrain",
    }.items():
        passage = load(uri).forecast(prepared.song()).passage(*prepared.splits["test"])
        assert measures[name]["bits_per_sample"] == pytest.approx(passage.bits_per_sample, rel=1e-9)
        gains = passage.prediction_gain_db
        assert measures[name]["prediction_gain_db"] == pytest.approx(gains.tolist(), rel=1e-9)


def test_the_listening_files_are_aligned_and_from_the_test_passage(home):
    for prepared in Corpus.open(home / "prepared"):
        folder = home / "listening" / prepared.slug
        start, _ = prepared.splits["test"]
        frames = round(0.25 * RATE_HZ)
        original = read_song(folder / "original.wav")
        np.testing.assert_array_equal(original.samples, prepared.samples[start : start + frames])
        for name, kind in (("pred_song.wav", "train"), ("pred_song_updated.wav", "retrain")):
            passage = read_song(folder / name)
            assert passage.sample_rate_hz == RATE_HZ
            assert passage.samples.shape == original.samples.shape
            forecast = load(f"models/{kind}").forecast(prepared.song())
            expected = forecast.passage(start, start + frames).mean
            np.testing.assert_allclose(passage.samples, expected, atol=0.51)


def test_continuations_are_measured_by_horizon_beside_baselines(home):
    result = read(home / "metrics" / "evaluation.json")["continuation"]
    names = ["continuation", "constant", "mean", "blend", "silence", "loop", "burg", "paste"]
    assert list(result["summary"]) == names
    assert sorted(result["songs"]) == sorted(SONGS)
    for song in result["songs"].values():
        for name in names:
            distances = song[name]["log_mel_distance_db"]
            assert len(distances) == len(result["horizons_seconds"]) == 4
            # Half a second is held out: the later horizons cannot be measured.
            assert all(value > 0 for value in distances[:2])
            assert distances[2:] == [None, None]
    means = [song["loop"]["log_mel_distance_db"][0] for song in result["songs"].values()]
    assert result["summary"]["loop"]["log_mel_distance_db"][0] == pytest.approx(np.mean(means))


def test_the_continuation_starts_where_the_original_passage_starts(home):
    for prepared in Corpus.open(home / "prepared"):
        start, _ = prepared.splits["test"]
        passage = Song(
            samples=np.array(prepared.samples[:start]), sample_rate_hz=RATE_HZ, name="passage"
        )
        expected = load("models/train").continue_song(passage, 0.25).samples
        result = read_song(home / "listening" / prepared.slug / "continuation.wav")
        np.testing.assert_array_equal(result.samples, expected)


def test_registered_versions_carry_the_continuation_model(home):
    weights = read_manifest(home / "models" / "continuation")["weights_sha256"]
    for version in (1, 2):
        package = downloads.resolve(f"models:/songcast/{version}")
        assert read_manifest(package / "continuation")["weights_sha256"] == weights
        assert read_manifest(package)["continuation_weights_sha256"] == weights


def test_bundles_record_their_origin_and_the_songs_that_they_learned(home):
    for kind in ("ridge", "continuation", "train", "retrain"):
        origin = read_manifest(home / "models" / kind)["provenance"]
        assert origin["device"] == "CPU"
        assert origin["params"] == json.loads(json.dumps(PARAMS))
        assert [song["slug"] for song in origin["songs"] if song["learned"]] == ["new", "old"]
    for run in runs_and_versions()[0]:
        if run.info.run_name in ("train", "retrain"):
            origin = read_manifest(home / "models" / run.info.run_name)["provenance"]
            assert run.data.tags["songcast.time"] == origin["time"]


def test_retrain_starts_from_the_weights_of_train_with_another_slope(home):
    train, retrain = (read_manifest(home / "models" / kind) for kind in ("train", "retrain"))
    assert retrain["parent_weights_sha256"] == train["weights_sha256"]
    assert retrain["weights_sha256"] != train["weights_sha256"]
    assert train["network"]["negative_slope"] == 0.1
    assert retrain["network"]["negative_slope"] == 0.25
    assert load(home / "models" / "retrain").forecaster.settings.negative_slope == 0.25


def test_retrain_writes_the_measures_of_every_song_before_and_after(home):
    report = read(home / "metrics" / "retrain.json")
    assert report["new_songs"] == ["new"]
    assert sorted(report["songs"]) == sorted(SONGS)
    for entry in report["songs"].values():
        assert set(entry) == {"before", "after"}
        assert entry["before"] != entry["after"]
        for when in entry.values():
            assert set(when) == {"bits_per_sample", "prediction_gain_db"}
            assert all(np.isfinite(value) for value in when.values())


def test_both_bundles_are_versions_and_the_better_is_the_challenger(home):
    registered = read(home / "registered.json")
    keys = ["name", "store", "versions", "challenger", "champion", "gate", "inputs"]
    assert list(registered) == keys
    assert registered["name"] == "songcast"
    assert registered["versions"] == {"train": 1, "retrain": 2}
    assert set(registered["gate"]) == {"passed", "reasons"}
    summary = read(home / "metrics" / "evaluation.json")["summary"]
    better = min(("train", "retrain"), key=lambda kind: summary[kind]["bits_per_sample"])
    assert registered["challenger"] == registered["versions"][better]
    assert (registered["champion"] is None) != registered["gate"]["passed"]
    model = load("models:/songcast@challenger")
    bundle = load(home / "models" / better)
    for name, expected in bundle.forecaster.weights.items():
        np.testing.assert_array_equal(model.forecaster.weights[name], expected)


def test_each_stage_is_one_run_with_its_epochs(home):
    runs, _ = runs_and_versions()
    assert sorted(result.info.run_name for result in runs) == [
        "baselines",
        "continuation",
        "prepare",
        "retrain",
        "train",
    ]
    client = tracking_store.connect()
    for result in runs:
        assert result.info.status == "FINISHED"
        if result.info.run_name == "prepare":
            (report,) = client.list_artifacts(result.info.run_id)
            assert report.path == "data.json"
            assert result.data.metrics["songs"] == len(Corpus.open(home / "prepared"))
        if result.info.run_name in ("baselines", "continuation", "prepare"):
            continue  # the songs are too short to train continuations
        history = client.get_metric_history(result.info.run_id, "train_bits_per_sample")
        # The metric of the logged model repeats the last step.
        assert {point.step for point in history} == {0, 1}
        assert result.data.metrics["bits_per_sample"] > 0


def test_the_parent_run_has_the_report_and_the_numbers_of_every_forecaster(home):
    runs, _ = runs_and_versions()
    (parent,) = {result.data.tags["mlflow.parentRunId"] for result in runs}
    client = tracking_store.connect()
    pipeline = client.get_run(parent)
    assert pipeline.info.status == "FINISHED"
    assert "| forecaster |" in pipeline.data.tags["mlflow.note.content"]
    summary = read(home / "metrics" / "evaluation.json")["summary"]
    for name in FORECASTERS:
        logged = pipeline.data.metrics[f"{name}/bits_per_sample"]
        assert logged == pytest.approx(summary[name]["bits_per_sample"])
    paths = {file.path for file in client.list_artifacts(parent)}
    assert paths == {"report.html", "plots", "songs.csv", "continuation.csv"}


def test_registering_again_adds_no_version(home):
    before = read(home / "registered.json")
    was_runs, was_versions = runs_and_versions()
    run("register")
    runs, versions = runs_and_versions()
    assert (len(runs), len(versions)) == (len(was_runs), len(was_versions)) == (5, 2)
    assert read(home / "registered.json") == before


def test_an_emptied_store_is_rebuilt_from_the_outputs(home, tmp_path, monkeypatch):
    copy = tmp_path / "clone"
    shutil.copytree(home, copy, ignore=shutil.ignore_patterns("mlruns", "features"))
    use_repository(copy, monkeypatch)
    assert runs_and_versions() == ([], [])
    evaluation = (copy / "metrics" / "evaluation.json").read_bytes()
    for _ in range(2):
        run("register")
        runs, versions = runs_and_versions()
        assert sorted(result.info.run_name for result in runs) == ["retrain", "train"]
        assert len(versions) == 2
    client = tracking_store.connect()
    for result in runs:
        history = client.get_metric_history(result.info.run_id, "train_bits_per_sample")
        assert sorted({point.step for point in history}) == [0, 1]
    assert read(copy / "registered.json")["versions"] == {"train": 1, "retrain": 2}
    assert (copy / "metrics" / "evaluation.json").read_bytes() == evaluation


@pytest.mark.slow
def test_the_same_songs_and_params_give_the_same_metrics_and_weights(home, tmp_path, monkeypatch):
    copy = tmp_path / "again"
    copy.mkdir()
    shutil.copytree(home / "data", copy / "data")
    shutil.copy(home / "params.yaml", copy)
    use_repository(copy, monkeypatch)
    for stage in STAGES[:-1]:
        run(stage)
    for name in ("evaluation.json", "retrain.json"):
        assert (copy / "metrics" / name).read_bytes() == (home / "metrics" / name).read_bytes()
    for kind in ("ridge", "notebook", "train", "retrain"):
        one, other = (read_manifest(each / "models" / kind) for each in (home, copy))
        assert one["files"] == other["files"]


# Small parts.


class Named:
    """A song all of which can be learned from, or nothing."""

    def __init__(self, slug, frames, channels, split="train"):
        self.slug, self.frames, self.channels = slug, frames, channels
        self.sample_rate_hz = RATE_HZ
        self.splits = {split: (0, frames)}


def test_old_songs_get_the_replay_share_of_the_crops():
    songs = [Named("a", 1000, 2), Named("b", 3000, 1), Named("c", 500, 2)]
    held_out = Named("d", 9000, 2, "test")
    for replay in (0.0, 0.25, 0.5):
        shares = replay_shares([*songs, held_out], songs[2:], replay)
        drawn = {s.slug: shares[s.slug] * s.frames * s.channels for s in songs}
        assert drawn["a"] + drawn["b"] == pytest.approx(replay * sum(drawn.values()))
        assert drawn["a"] * 3 == pytest.approx(drawn["b"] * 2)


def test_summary_reports_that_the_alias_of_the_parent_has_moved(home):
    path = home / "metrics" / "retrain.json"
    report = read(path)
    weights = read_manifest(home / "models" / "train")["weights_sha256"]
    parent = {"name": "models/train", "uri": "models/train", "weights_sha256": weights}
    assert report["parent"] == parent
    assert parent_line(path) is None
    alias, champion = "models:/songcast@champion", read(home / "registered.json")["champion"]
    present = f"models:/songcast/{champion}"
    assert pin(alias) == present
    try:
        write_json(path, {"parent": {"name": alias, "uri": present}})
        assert parent_line(path) is None
        write_json(path, {"parent": {"name": alias, "uri": "models:/songcast/99"}})
        line = parent_line(path)
        assert line.startswith(f"{alias} is now {present}; models/retrain was trained from ")
    finally:
        write_json(path, report)


def test_without_old_songs_all_have_the_same_share():
    songs = [Named("a", 1000, 2), Named("b", 3000, 1)]
    assert replay_shares(songs, songs, 0.5) == {"a": 1.0, "b": 1.0}


def test_names_of_songs_that_another_collection_lacks_are_ignored_with_a_warning(home, caplog):
    corpus = Corpus.open(home / "prepared")
    selected = select_songs(corpus, ["nowhere", "new"], "retrain.songs")
    assert [song.slug for song in selected] == ["new"]
    assert "retrain.songs: not in data/, ignored: nowhere" in caplog.text


def test_an_invalid_parent_is_an_error(home, monkeypatch):
    saved = (home / "params.yaml").read_text()
    try:
        retrain = {**PARAMS["retrain"], "parent": "models/notebook"}
        (home / "params.yaml").write_text(yaml.safe_dump({**PARAMS, "retrain": retrain}))
        with pytest.raises(ParamsError, match=r"models/notebook.*name an LSTM"):
            run("retrain")
    finally:
        (home / "params.yaml").write_text(saved)
    assert load("models/notebook").name == Notebook.name


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ParamsError("params.yaml: x is unknown"), 2, "params.yaml: x is unknown\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (
            OSError(errno.ENOSPC, "message", "a.npy"),
            2,
            "a.npy: the disk is full; free some space and run it again\n",
        ),
    ],
)
def test_a_stage_prints_an_invalid_input_in_one_line(own_process, error, code, message, capsys):
    def main():
        raise error

    with pytest.raises(SystemExit) as caught:
        run_stage(main)
    assert caught.value.code == code
    assert capsys.readouterr().err == f"songcast {main.__module__.split('.')[-1]}: {message}"


def test_a_bug_in_a_stage_keeps_its_traceback(own_process):
    with pytest.raises(ZeroDivisionError):
        run_stage(lambda: 1 // 0)


def printed(script, home):
    """What a Python program prints in the folder ``home``."""
    command = [sys.executable, "-c", script]
    return subprocess.run(command, cwd=home, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_a_stage_that_trains_logs_its_run_without_pandas(home):
    script = (
        "import sys; from songcast.stages import run_stage\n"
        "def main():\n"
        "    from songcast.forecasting.keras_backend import import_keras\n"
        "    from songcast.tracking.stage_run import stage_run\n"
        "    import songcast.training.continuation\n"
        "    import_keras()\n"
        "    with stage_run('train', {'seed': 1}) as run: pass\n"
        "    from sklearn.linear_model import Ridge\n"
        "    loaded = {name for name, module in sys.modules.items() if module}\n"
        "    print(bool(run.run_id), loaded & {'h5py', 'pandas', 'pyarrow', 'scipy.signal'})\n"
        "    from songcast.distributed.cluster import import_ray\n"
        "    import_ray()\n"
        "run_stage(main, trains=True)\n"
    )
    assert printed(script, home) == "True set()\n"


@pytest.mark.slow
def test_an_evaluation_needs_no_tensorflow_and_train_no_optional_package(home):
    script = (
        "import sys; from pathlib import Path\n"
        "from songcast.evaluation.songs import TRAINED, load_continuation, load_models\n"
        "from songcast.forecasting.loading import BASELINES\n"
        "load_models(Path('models'), (*BASELINES, *TRAINED)); load_continuation(Path('models'))\n"
        "print({'tensorflow', 'keras', 'mlflow', 'pandas', 'sklearn'} & set(sys.modules))\n"
        "from songcast.forecasting.keras_backend import import_keras\n"
        "import_keras(); print({'jax', 'matplotlib', 'pandas', 'sklearn'} & set(sys.modules))\n"
        "import pandas, sklearn\n"
    )
    assert printed(script, home).splitlines() == ["set()", "set()"]


def test_a_song_that_cannot_be_evaluated_ends_the_evaluation_before_the_others(
    monkeypatch, tmp_path
):
    monkeypatch.setattr(engine, "free_cores", lambda: 1)
    started = []

    def work(song):
        started.append(song.frames)
        if len(started) == 1:
            raise ValueError("broken")
        time.sleep(0.05)

    songs = tuple(SimpleNamespace(frames=frames, channels=1) for frames in range(1, 41))
    corpus = Corpus(sample_rate_hz=RATE_HZ, songs=songs)
    with pytest.raises(ValueError, match="broken"):
        evaluate.measure_songs(work, corpus, "local", tmp_path, ".wav")
    assert started[0] == 40  # the longest
    assert len(started) < 20

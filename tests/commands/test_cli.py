"""The command line: exit codes, help, one line for every error, progress."""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

import songcast
from songcast import cli, stages
from songcast.audio.songs import Song, write_song
from songcast.commands import estimate, models, parsers
from songcast.config import Params
from songcast.data.corpus import TEST, Budget
from songcast.errors import SongcastError
from songcast.forecasting import keras_backend
from songcast.report import console
from songcast.stages import ESTIMATES
from songcast.training.feature_cache import song_features
from songcast.training.setup import front_end_settings


def test_invalid_arguments_are_one_line_that_names_the_help(rejection):
    for arguments, reason in [
        ([], "COMMAND"),
        (["frob"], "invalid choice: 'frob'"),
        (["score"], "SONG"),
        (["score", "a.wav", "--jso"], "unrecognized arguments: --jso"),
        (["predict", "a.wav"], "-o/--output"),
    ]:
        line = rejection(*arguments)
        assert reason in line
        assert "--help`" in line


def test_every_help_has_an_example(capfd):
    (subparsers,) = cli.build_parser()._subparsers._group_actions
    assert len(subparsers.choices) >= 15
    for command in subparsers.choices:
        with pytest.raises(SystemExit) as ended:
            cli.main([command, "--help"])
        assert ended.value.code == 0
        out = capfd.readouterr().out
        assert f"example:\n  songcast {command}" in out
        assert "%%" not in out


def test_version(capfd):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert (ended.value.code, capfd.readouterr().out) == (0, f"songcast {songcast.__version__}\n")


def test_help_imports_no_heavy_package():
    script = (
        "import sys; from songcast import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'tensorflow', 'keras', 'mlflow', 'numba', 'numpy', 'scipy', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def fail_with(monkeypatch, error):
    def fail(_):
        raise error

    monkeypatch.setattr(models, "list_models", fail)


def test_ctrl_c_exits_with_130_and_a_bug_keeps_its_traceback(monkeypatch, capfd):
    fail_with(monkeypatch, KeyboardInterrupt())
    assert cli.main(["models"]) == 130
    assert capfd.readouterr() == ("", "songcast models: interrupted\n")
    fail_with(monkeypatch, ZeroDivisionError("ours"))
    with pytest.raises(ZeroDivisionError):
        cli.main(["models"])


def test_a_closed_pipe_is_not_an_error():
    script = "import sys; from songcast import cli; sys.exit(cli.main(['models', '--json']))"
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-c", script], stdout=writing, stderr=-1, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has /dev/full")
def test_a_full_disk_under_the_output_is_one_line():
    script = "import sys; from songcast import cli; sys.exit(cli.main(['models', '--json']))"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", script], stdout=full, stderr=-1, text=True)
    assert (done.returncode, done.stderr) == (
        2,
        "songcast models: the disk is full; free some space and run it again\n",
    )


def test_a_file_without_permission_is_one_line(monkeypatch, rejection):
    fail_with(monkeypatch, PermissionError(13, "Permission denied", "mlruns"))
    line = rejection("models")
    assert "mlruns: cannot be read or written (Permission denied)" in line


def test_progress_is_shown_on_a_terminal_only(monkeypatch, capsys):
    def run():
        with console.progress("score", 2.0, "s of song") as update:
            update(advance=1.0, description="a [song]")
            console.note("a line")
        return capsys.readouterr()

    assert run() == ("", "songcast: a line\n")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    out, err = run()
    assert out == ""
    assert "a [song]" in err
    assert "songcast: a line" in err


def test_without_a_terminal_progress_is_logged_with_the_time_left(monkeypatch, caplog):
    clock = iter(range(0, 4000, 20))
    monkeypatch.setattr(console.time, "monotonic", lambda: float(next(clock)))
    caplog.set_level("INFO", "songcast.progress")
    with console.progress("train", 10.0, "steps") as update:
        for step in range(4, 11):  # a training that resumes after three steps
            update(completed=step)
    lines = [record.getMessage() for record in caplog.records]
    left = {5: "1:40", 7: "1:00", 9: "20 s"}  # 20 s per step
    assert lines == [f"train: {step} of 10 steps, {time} left" for step, time in left.items()]


def test_the_time_left_counts_from_the_beginning_where_songs_end_together(monkeypatch, caplog):
    now = 0.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    caplog.set_level("INFO", "songcast.progress")
    with console.progress("forecast", 8, "songs") as update:
        for now in (50.0, 51.0, 100.0):  # noqa: B007
            update(advance=1)
    lines = [record.getMessage() for record in caplog.records]
    # 50 s per song, then 33 s.
    assert lines == ["forecast: 1 of 8 songs, 5:50 left", "forecast: 3 of 8 songs, 2:46 left"]


REPOSITORY = Path(__file__).parents[2]
STAGES = list(yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"])
ESTIMATED = {"songs", "new_songs", "hours", "cores", "stages", "cpu_seconds", "disk_bytes"}


def test_estimate_announces_new_songs_and_refuses_a_folder_without_songs(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    arguments = ["estimate", "--json"]
    for folder in (False, True):
        if folder:
            (tmp_path / "data").mkdir()
        assert cli.main(arguments) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
    # Ten minutes cost about as much as two: passages are learned from and measured.
    results = {}
    for minutes in (0.2, 2, 10):
        silence = np.zeros((round(minutes * 60 * 8000), 2), np.int16)
        song = Song(samples=silence, sample_rate_hz=8000, name="a")
        write_song(song, tmp_path / "data" / "a.flac")
        assert cli.main(arguments) == 0
        results[minutes] = json.loads(capsys.readouterr().out)
        assert results[minutes].keys() == ESTIMATED | {"free_disk_bytes"}
        assert results[minutes]["songs"] == results[minutes]["new_songs"] == 1
        assert results[minutes]["hours"] == pytest.approx(minutes / 60)
        costs = results[minutes]["stages"]
        assert list(costs) == STAGES
        total = sum(stage["cpu_seconds"] for stage in costs.values())
        assert results[minutes]["cpu_seconds"] == pytest.approx(total)
    for name in ("train", "evaluate"):
        short, middle, long = (r["stages"][name]["cpu_seconds"] for r in results.values())
        assert short < middle
        assert long == pytest.approx(middle, rel=0.01)
    monkeypatch.setattr(estimate.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 8, 1))
    cli.main(["estimate"])
    assert "GB of disk, and 0.0 GB are free" in capsys.readouterr().err
    # What a stage needed in truth corrects the next estimate.
    expected = json.loads((tmp_path / ESTIMATES).read_text())["expected"]["train"]
    stages._compare("train", 2.0 * expected)
    cli.main(arguments)
    again = json.loads(capsys.readouterr().out)["stages"]["train"]["cpu_seconds"]
    assert again == pytest.approx(2.0 * expected)


def test_estimate_counts_the_features_that_do_not_exist(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    silence = np.zeros((120 * 8000, 2), np.int16)
    write_song(Song(samples=silence, sample_rate_hz=8000, name="a"), tmp_path / "data" / "a.wav")
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    params = Params.load()
    songs, new = estimate.songs_of(tmp_path, params)

    def seconds(params, stages):
        costs = estimate.stage_costs(tmp_path, params, songs, new, set(stages))
        return [costs[name].seconds for name in stages]

    # Of the 20 s, each passage has a warm-up. retrain reads what train has computed.
    train, retrain = seconds(params, ("train", "retrain"))
    assert params.train.seconds_per_song < train < 120
    assert retrain == 0
    assert seconds(params, ("retrain",)) == [train]
    features = song_features(
        songs,
        front_end_settings(params.train),
        params.train.step_frames,
        tmp_path / "features",
        budget=Budget.of(params.train),
    )
    for part in features:
        part.folder.mkdir(parents=True)
        (part.folder / "done").touch()
    assert seconds(params, ("train", "retrain")) == [0, 0]
    whole = params.train.model_copy(update={"seconds_per_song": None})
    (after,) = seconds(params.model_copy(update={"train": whole}), ("train",))
    assert after == pytest.approx(songs[0].splits[TEST][0] / 44100, rel=0.01)


DELETED = {"prepared": "deleted"}
STATUS = {
    "prepare": [{"changed outs": DELETED}],
    "baselines": [{"changed deps": DELETED}],
    "evaluate": [{"changed deps": DELETED}, {"changed outs": {"listening": "deleted"}}],
    "report": [{"changed deps": {"listening": "deleted"}}],
    "register": [{"changed outs": {"registered.json": "deleted"}}, "always changed"],
}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        # As after `make demo`: what is missing is made again, and is what it was.
        ({}, {"prepare", "evaluate", "register"}),
        ({"train": [{"changed deps": {"params.yaml": {"train.epochs": "modified"}}}]},
         {"prepare", "train", "retrain", "evaluate", "report", "register"}),
        ({"prepare": [{"changed deps": {"data": "modified"}}]}, set(STAGES)),
        ({"report": ["changed command"]}, {"prepare", "evaluate", "report", "register"}),
        ({"register": ["always changed"]}, {"prepare", "evaluate"}),
    ],
)  # fmt: skip
def test_estimate_follows_changes_through_the_pipeline(monkeypatch, change, expected):
    answer = subprocess.CompletedProcess([], 0, stdout=json.dumps(STATUS | change))
    monkeypatch.setattr(estimate.subprocess, "run", lambda *_, **__: answer)
    assert tuple(STAGES) == estimate.STAGES
    assert estimate.outdated(REPOSITORY) == expected


def test_the_package_offers_its_names_lazily():
    assert set(songcast.__all__) <= set(dir(songcast))
    assert songcast.Song.__module__ == "songcast.audio.songs"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        songcast.nothing  # noqa: B018


def test_port_numbers():
    assert parsers.port_number("65535") == 65535
    with pytest.raises(argparse.ArgumentTypeError):
        parsers.port_number("five")


# What Jupyter, Colab, terminals and other projects set.
FOREIGN = {
    "MPLBACKEND": "inline",
    "KERAS_BACKEND": "torch",
    "FORCE_COLOR": "1",
    "CLICOLOR": "1",
    "TERM": "xterm-color",
    "COLUMNS": "1",
    "PAGER": "cat",
    "JPY_PARENT_PID": "1",
    "HOME": "/nonexistent",
    "XDG_CACHE_HOME": "relative",
    "LANG": "C",
    "PYTHONIOENCODING": "ascii",
    "OMP_NUM_THREADS": "",
    "XLA_FLAGS": "",
    "MLFLOW_RUN_ID": "0",
    "MLFLOW_EXPERIMENT_NAME": "other",
    "MLFLOW_REGISTRY_URI": "databricks",
    "MLFLOW_TRACKING_URI": "",
}


@pytest.mark.parametrize(
    "words",
    [
        ["songcast.cli", "score", "song.wav", "--model", "persistence", "--json"],
        ["songcast.cli", "models", "--json"],
        ["songcast.report.figures.files"],
    ],
)
def test_variables_of_other_programs_do_no_harm(song, words):
    done = subprocess.run(
        [sys.executable, "-m", *words],
        env={**os.environ, **FOREIGN},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    if "--json" in words:
        json.loads(done.stdout)


def test_a_keras_backend_that_is_not_installed_is_one_line(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    with pytest.raises(SongcastError, match="KERAS_BACKEND=torch: not installed or not supported"):
        keras_backend.import_keras()

"""The command line: documents, exit codes, one line for each mistake, nothing half-written."""

import argparse
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import songcast
from songcast import cli, commands, registry
from songcast.audio.songs import read_song, write_song
from songcast.commands import forecasting, models, score, ui
from songcast.forecasting import keras_backend
from songcast.forecasting.ridge import Ridge
from songcast.registry import Version
from songcast.report import console


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty repository without a registry."""
    (tmp_path / "dvc.yaml").touch()
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in keras_backend.ENVIRONMENT:
        monkeypatch.setenv(name, os.environ.get(name, keras_backend.ENVIRONMENT[name]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def song(folder, make_song):
    write_song(make_song(3000), folder / "song.wav")
    return "song.wav"


def refusal(capfd, *arguments):
    """Run a command that must fail: exit code 2, one line on stderr, nothing on stdout."""
    try:
        code = cli.main(arguments)
    except SystemExit as ended:  # argparse
        code = ended.code
    out, err = capfd.readouterr()
    assert (code, out) == (2, "")
    assert err.count("\n") == 1, err
    assert err.startswith("songcast")
    return err


def use_champion(monkeypatch, evaluation=None):
    """Let the registry hold version 3, the champion: a model that repeats the last sample."""
    found = Version(
        number=3,
        kind="train",
        weights_sha256="ab",
        run_id="r1",
        source="",
        aliases=("champion",),
        created_ms=0,
        evaluation=evaluation or {},
        ridge={},
        tags={},
    )
    monkeypatch.setattr(forecasting, "has_registry", lambda: True)
    monkeypatch.setattr(registry, "alias", {"champion": 3}.get)
    monkeypatch.setattr(registry, "versions", lambda: [found])
    load = songcast.load

    def load_fake(uri):
        return load("persistence" if uri == "models:/songcast@champion" else uri)

    monkeypatch.setattr(forecasting, "load", load_fake)


# score


def test_score_json_is_the_contract_and_nothing_else_is_on_stdout(folder, song, make_song, capfd):
    write_song(make_song(500, 1, 22050), folder / "mono.flac")
    arguments = ["score", song, "mono.flac", "--json"]
    for name in ("persistence", "cascade", "persistence"):
        arguments += ["--model", name]
    assert cli.main(arguments) == 0
    out, err = capfd.readouterr()
    assert err == ""
    document = json.loads(out)
    assert list(document) == ["songs"]
    for entry, path, frames, channels, rate in zip(
        document["songs"],
        (song, "mono.flac"),
        (3000, 500),
        (2, 1),
        (44100, 22050),
        strict=True,
    ):
        assert set(entry) == {"path", "frames", "channels", "sample_rate_hz", "forecasters"}
        assert (entry["path"], entry["frames"]) == (path, frames)
        assert (entry["channels"], entry["sample_rate_hz"]) == (channels, rate)
        assert list(entry["forecasters"]) == ["persistence", "cascade"]
        forecast = songcast.load("persistence").forecast(read_song(path))
        found = entry["forecasters"]["persistence"]
        assert found.pop("seconds") > 0
        assert found == {
            "prediction_gain_db": forecast.prediction_gain_db.tolist(),
            "bits_per_sample": forecast.bits_per_sample,
            "lag_samples": [1] * channels,
        }


def test_score_by_default_takes_what_is_there_and_says_what_is_not(song, capfd):
    assert cli.main(["score", song, "--json"]) == 0
    out, err = capfd.readouterr()
    assert list(json.loads(out)["songs"][0]["forecasters"]) == ["cascade", "persistence"]
    assert [line.split(" is ")[0] for line in err.splitlines()] == [
        "songcast: no champion",
        "songcast: ridge",
    ]
    assert not Path("mlruns").exists()  # looking creates no registry


def test_score_by_default_takes_champion_cascade_ridge_persistence(
    folder, song, chord, monkeypatch, capfd
):
    use_champion(monkeypatch)
    Ridge.fit([chord.samples], look_back=4, alpha=1e-3).save(folder / "models" / "ridge", {})
    assert cli.main(["score", song, "--json"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    names = list(json.loads(out)["songs"][0]["forecasters"])
    assert names == ["champion", "cascade", "ridge", "persistence"]


def test_score_table_is_plain_and_whole_when_piped(folder, make_song, capfd):
    name = "[bold]" + "long " * 40 + ".wav"
    write_song(make_song(300, 1), folder / name)
    assert cli.main(["score", name, "--model", "persistence"]) == 0
    out = capfd.readouterr().out
    heading, columns, row = out.splitlines()
    assert heading == f"{name}: 0.01 s, 44100 Hz, mono"
    assert columns.split() == [
        *("forecaster", "gain", "dB", "bits/sample", "lag", "seconds", "x", "real", "time")
    ]
    assert row.startswith("persistence")
    assert "\x1b" not in out
    assert out.isascii()


def test_infinite_gain_is_null_in_json():
    assert [score._finite(x) for x in (np.inf, np.nan, np.float64(2))] == [None, None, 2.0]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("none.wav", None, "there is no such file; check the name"),
        ("empty.mp3", b"", "the file is empty (0 bytes)"),
        ("text.mp3", b"just words\n" * 99, "is text, not a song"),
        ("cut.wav", "cut", "truncated"),
        ("cut.ogg", "cut", "truncated"),
    ],
)
@pytest.mark.parametrize("json_flag", [[], ["--json"]])
def test_a_bad_song_is_one_line_and_no_partial_output(
    folder, song, chord, capfd, name, content, said, json_flag
):
    path = folder / name
    if content == "cut":
        write_song(chord, path)
        path.write_bytes(path.read_bytes()[:2000])
    elif content is not None:
        path.write_bytes(content)
    line = refusal(capfd, "score", song, name, "--model", "persistence", *json_flag)
    assert line.startswith(f"songcast score: {name}: ")
    assert said in line


def test_a_song_that_fails_after_another_was_scored_leaves_no_half_document(
    folder, song, make_song, capfd
):
    noise = np.random.default_rng(0).integers(-9000, 9000, (60000, 2)).astype(np.int16)
    write_song(songcast.Song(samples=noise, sample_rate_hz=44100, name="x"), folder / "bad.flac")
    data = (folder / "bad.flac").read_bytes()
    (folder / "bad.flac").write_bytes(data[: len(data) // 2])
    with score_headers(folder / "bad.flac") as frames:
        assert frames == 60000  # the header is fine
    line = refusal(capfd, "score", song, "bad.flac", "--json", "--model", "persistence")
    assert "bad.flac: " in line


def score_headers(path):
    from contextlib import contextmanager

    from songcast.audio.songs import open_song

    @contextmanager
    def frames():
        with open_song(path) as reader:
            yield reader.frames

    return frames()


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("nowhere", "nowhere: no model bundle here"),
        ("models:/songcast@champion", "no model is registered yet"),
        ("models:/other/1", "no model is registered yet"),
        ("ridge", "no model bundle here"),
    ],
)
def test_a_model_that_cannot_be_loaded_stops_before_any_scoring(
    song, monkeypatch, capfd, uri, said
):
    monkeypatch.setattr(score, "score_song", lambda *_: pytest.fail("scored"))
    assert said in refusal(capfd, "score", song, "--model", "persistence", "--model", uri)


def test_an_altered_bundle_is_one_line(folder, song, chord, capfd):
    Ridge.fit([chord.samples], look_back=4, alpha=1e-3).save(folder / "mine", {})
    (folder / "mine" / "arrays.npz").write_bytes(b"altered")
    assert "altered since it was written" in refusal(capfd, "score", song, "--model", "mine")


def test_clipped_floats_are_scored_with_a_one_line_warning(folder, capfd):
    import soundfile

    soundfile.write("loud.wav", np.array([[1.5], [-2.0], [0.1]]), 44100, "FLOAT")
    assert cli.main(["score", "loud.wav", "--model", "persistence", "--json"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["songs"][0]["frames"] == 3
    assert err.count("\n") == 1
    assert err.startswith("songcast: warning: loud.wav: 2 samples beyond full scale")


@pytest.mark.parametrize("value", [0, -32768])
def test_silence_and_constant_songs_are_scored(folder, capfd, value):
    samples = np.full((500, 2), value, np.int16)
    write_song(songcast.Song(samples=samples, sample_rate_hz=8000, name="x"), folder / "dc.wav")
    assert cli.main(["score", "dc.wav", "--model", "cascade", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["songs"][0]["frames"] == 500


# predict


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp3", ".m4a", ".ogg"])
def test_predict_writes_the_rounded_mean_in_the_format_of_the_suffix(song, capfd, suffix):
    assert cli.main(["predict", song, "-o", f"out{suffix}", "--model", "persistence"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert out.count("\n") == 1
    assert out.startswith(f"out{suffix}: 0.07 s predicted by persistence; prediction gain ")
    heard, original = read_song(f"out{suffix}"), read_song(song)
    assert (heard.frames, heard.sample_rate_hz) == (original.frames, original.sample_rate_hz)
    assert heard.samples.shape == original.samples.shape
    if suffix in (".wav", ".flac"):
        np.testing.assert_array_equal(heard.samples[1:], original.samples[:-1])


def test_predict_serves_the_champion_by_default(song, monkeypatch, capfd):
    use_champion(monkeypatch)
    assert cli.main(["predict", song, "-o", "out.wav"]) == 0
    assert "predicted by models:/songcast@champion;" in capfd.readouterr().out


def test_predict_refuses_before_computing_and_writes_nothing(song, monkeypatch, capfd):
    Path("folder.wav").mkdir()
    Path("same.wav").symlink_to(song)
    monkeypatch.setattr(forecasting, "forecast", lambda *_: pytest.fail("computed"))
    before = sorted(Path().iterdir())
    for out, said in [
        ("out.xyz", "out.xyz: cannot write xyz; use one of .wav .flac"),
        ("out", "out: cannot write a file without suffix"),
        ("none/out.wav", "none/out.wav: cannot be written (No such file or directory)"),
        ("folder.wav", "folder.wav: is there and is not a file"),
        (song, f"{song}: is the song itself; write to another file"),
        ("same.wav", "same.wav: is the song itself"),
    ]:
        assert said in refusal(capfd, "predict", song, "-o", out, "--model", "persistence")
    assert "no model is registered yet" in refusal(capfd, "predict", song, "-o", "out.wav")
    assert sorted(Path().iterdir()) == before


# models, ui, summary


def test_models_lists_versions(monkeypatch, capfd):
    numbers = {"summary": {"bits_per_sample": 6.25, "prediction_gain_db": 40.125}}
    use_champion(monkeypatch, numbers)
    assert cli.main(["models"]) == 0
    _, row = capfd.readouterr().out.splitlines()
    assert row.split()[:5] == ["3", "train", "champion", "6.2500", "40.12"]
    assert cli.main(["models", "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == {
        "versions": [
            {
                "version": 3,
                "kind": "train",
                "aliases": ["champion"],
                "bits_per_sample": 6.25,
                "prediction_gain_db": 40.125,
                "created": "1970-01-01T00:00:00+00:00",
                "weights_sha256": "ab",
                "run_id": "r1",
            }
        ]
    }


def test_models_of_an_empty_registry_say_what_to_do(capfd):
    assert cli.main(["models"]) == 0
    assert capfd.readouterr().out == models.EMPTY + "\n"
    assert cli.main(["models", "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == {"versions": []}
    assert not Path("mlruns").exists()


def test_ui_on_a_port_in_use_is_one_line(capfd):
    with socket.socket() as taken:
        taken.bind((ui.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"port {port} cannot be used" in refusal(capfd, "ui", "--port", str(port))
    assert "is not a port: use a number" in refusal(capfd, "ui", "--port", "0")


@pytest.mark.parametrize("host", ["no..host", "x" * 300, "nobody.invalid"])
def test_a_host_that_cannot_be_is_one_line(capfd, host):
    assert f"{host}: not an address to listen on" in refusal(capfd, "serve", "--host", host)


FAKE_SERVER = """
import signal, socket, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
with socket.socket() as s:
    s.bind(("127.0.0.1", int(sys.argv[1]))); s.listen(); time.sleep(600)
"""


def free_port():
    with socket.socket() as probe:
        probe.bind((ui.HOST, 0))
        return probe.getsockname()[1]


def test_ui_prints_the_url_once_it_answers_and_ctrl_c_ends_it_quietly(monkeypatch, capfd):
    port = free_port()
    command = [sys.executable, "-c", FAKE_SERVER, str(port)]
    monkeypatch.setattr(
        "songcast.tracking.store.ui_command", lambda _: (command, dict(os.environ), "URL")
    )
    wait = subprocess.Popen.wait

    def interrupted_once(self, timeout=None):
        if timeout is None:
            raise KeyboardInterrupt
        return wait(self, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", interrupted_once)
    assert cli.main(["ui", "--port", str(port)]) == 0
    assert capfd.readouterr() == ("MLflow UI: URL  (Ctrl-C stops it)\n", "")
    assert not ui.answers(port)


def test_ui_that_does_not_start_gives_its_last_words(monkeypatch, capfd):
    command = [sys.executable, "-c", "raise SystemExit('no disk')"]
    monkeypatch.setattr(
        "songcast.tracking.store.ui_command", lambda _: (command, dict(os.environ), "URL")
    )
    said = refusal(capfd, "ui", "--port", str(free_port()))
    assert said == "songcast ui: the MLflow UI did not start: no disk\n"


def write_results(gate=None, champion=3, **summary):
    Path("metrics").mkdir(exist_ok=True)
    Path("metrics/evaluation.json").write_text(json.dumps({"summary": summary, "songs": {"a": {}}}))
    document = {
        "name": "songcast",
        "versions": {"train": 3, "retrain": 4},
        "challenger": 4,
        "champion": champion,
        "gate": gate or {"passed": True, "reasons": []},
    }
    Path("registered.json").write_text(json.dumps(document))


def test_summary_marks_the_best_and_says_who_is_champion(capfd):
    write_results(
        ridge={"prediction_gain_db": 41.0, "bits_per_sample": 7.0, "lag_samples": 0},
        train={"prediction_gain_db": 40.0, "bits_per_sample": 6.5, "lag_samples": 0},
        notebook={"prediction_gain_db": None, "bits_per_sample": 9.0},
    )
    assert cli.main(["summary"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split() for line in lines[2:5]] == [
        ["ridge", "*", "41.00", "7.0000", "0"],
        ["train", "40.00", "*", "6.5000", "0"],
        ["notebook", "-", "9.0000", "-"],
    ]
    assert (
        "champion: version 3 (train); challenger: version 4 (retrain), it passed the gate" in lines
    )
    for place in ("make ui", "listening/", "metrics/evaluation.json"):
        assert any(line.startswith(place) for line in lines)


def test_summary_gives_the_reasons_of_a_closed_gate(capfd):
    gate = {"passed": False, "reasons": ["lag_samples is 1: must be 0", "not better than ridge"]}
    write_results(gate, None, train={"prediction_gain_db": 1.0, "bits_per_sample": 2.0})
    assert cli.main(["summary"]) == 0
    assert (
        "no champion yet; challenger: version 4 (retrain), "
        "the gate is closed: lag_samples is 1: must be 0; not better than ridge\n"
    ) in capfd.readouterr().out
    Path("registered.json").unlink()
    assert cli.main(["summary"]) == 0
    assert "Nothing is registered yet" in capfd.readouterr().out


def test_summary_without_results_is_one_line(capfd):
    assert "evaluation.json: missing" in refusal(capfd, "summary")
    write_results()
    assert "not an evaluation" in refusal(capfd, "summary")
    write_results(train={"bits_per_sample": 1.0})
    Path("registered.json").write_text("[]")
    assert "registered.json: not written by stage register" in refusal(capfd, "summary")


# The frame around the commands


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "COMMAND"),
        (["frob"], "invalid choice: 'frob'"),
        (["score"], "SONG"),
        (["score", "a.wav", "--jso"], "unrecognized arguments: --jso"),
        (["predict", "a.wav"], "-o/--output"),
    ],
)
def test_misuse_is_one_line_that_names_the_help(capfd, arguments, said):
    line = refusal(capfd, *arguments)
    assert said in line
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


def test_help_loads_nothing_heavy():
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


def test_a_reader_that_goes_away_is_no_error(song):
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


def test_what_may_not_be_read_is_one_line(monkeypatch, capfd):
    fail_with(monkeypatch, PermissionError(13, "Permission denied", "mlruns"))
    line = refusal(capfd, "models")
    assert "mlruns: cannot be read or written (Permission denied)" in line


# The terminal and the backend


def test_a_watched_forecast_is_the_forecast(chord):
    model, seen = songcast.load("persistence"), []
    plain = model.forecast(chord)
    watched = forecasting.forecast(model, chord, "what", lambda **kinds: seen.append(kinds))
    np.testing.assert_array_equal(watched.mean, plain.mean)
    np.testing.assert_array_equal(watched.bits, plain.bits)
    assert {update["description"] for update in seen} == {"what"}
    assert sum(update["advance"] for update in seen) == pytest.approx(chord.seconds)


def test_progress_is_silent_off_a_terminal_and_shown_on_one(monkeypatch, capsys):
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


@pytest.mark.parametrize("fails", [False, True])
def test_start_up_chatter_is_dropped_and_all_else_passed_on(fails):
    chatter = (
        "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
        "I0000 00:00:1795345308.391371   18134 port.cc:153] oneDNN custom operations are on.\n"
        "2026-11-22 11:01:16.123456: I tensorflow/core/platform/cpu.cc:1] This TensorFlow\n"
        "To enable the following instructions: AVX2 FMA\n"
    )
    script = (
        "import os, sys; from songcast.forecasting.keras_backend import quiet_startup\n"
        "with quiet_startup():\n"
        f"    os.write(2, {chatter.encode()!r} + b'disk is full\\n')\n"
        "    print('from python', file=sys.stderr)\n"
        f"    if {fails}: sys.exit(1)\n"
        "print('after', file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    passed_on = "disk is full\nfrom python\n"
    assert done.stderr == (chatter + passed_on if fails else passed_on + "after\n")


def test_the_backend_that_the_user_chose_stays(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL")
    keras_backend.prepare_backend()
    assert (os.environ["KERAS_BACKEND"], os.environ["TF_CPP_MIN_LOG_LEVEL"]) == ("jax", "3")


def test_the_package_offers_its_names_lazily():
    assert set(songcast.__all__) <= set(dir(songcast))
    assert songcast.Song.__module__ == "songcast.audio.songs"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        songcast.nothing  # noqa: B018


def test_port_numbers():
    assert commands.port_number("65535") == 65535
    with pytest.raises(argparse.ArgumentTypeError):
        commands.port_number("five")

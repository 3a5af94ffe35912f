"""`songcast score` and `songcast predict`: documents, tables, and files written whole."""

import json
import shutil
import sqlite3
import subprocess
import sys
import tracemalloc
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile

import songcast
from helpers.champions import use_champion
from helpers.mlflow_store import use_repository
from helpers.small_models import ridge
from songcast import cli
from songcast.audio.songs import read_song, write_song
from songcast.commands import score
from songcast.files import sha256_of_file
from songcast.forecasting.forecaster import Forecaster
from songcast.forecasting.ridge import Ridge


def test_score_json_follows_the_contract_and_is_alone_on_stdout(folder, song, make_song, capfd):
    write_song(make_song(500, 1, 22050), folder / "mono.flac")
    arguments = ["score", song, "mono.flac", "--json"]
    for name in ("persistence", "cascade", "persistence"):
        arguments += ["--model", name]
    assert cli.main(arguments) == 0
    out, err = capfd.readouterr()
    assert err == ""
    document = json.loads(out)
    assert list(document) == ["songs"]
    expected = [(song, 3000, 2, 44100), ("mono.flac", 500, 1, 22050)]
    for entry, (path, frames, channels, rate) in zip(document["songs"], expected, strict=True):
        forecasters = entry.pop("forecasters")
        assert entry == {
            "path": path,
            "frames": frames,
            "channels": channels,
            "sample_rate_hz": rate,
        }
        assert list(forecasters) == ["persistence", "cascade"]
        forecast = songcast.load("persistence").forecast(read_song(path))
        assert forecasters["persistence"].pop("seconds") > 0
        assert forecasters["persistence"] == {
            "prediction_gain_db": pytest.approx(forecast.prediction_gain_db.tolist()),
            "bits_per_sample": pytest.approx(forecast.bits_per_sample),
            "lag_samples": [1] * channels,
        }


def test_score_without_models_skips_those_that_do_not_exist_yet(song, capfd):
    assert cli.main(["score", song, "--json"]) == 0
    out, err = capfd.readouterr()
    assert list(json.loads(out)["songs"][0]["forecasters"]) == ["cascade", "persistence"]
    assert [line.split(" is ")[0] for line in err.splitlines()] == [
        "songcast: no champion",
        "songcast: ridge",
    ]
    assert not Path("mlruns").exists()  # a look at the registry does not create one


def test_score_without_models_uses_champion_cascade_ridge_persistence(
    folder, song, chord, monkeypatch, capfd
):
    use_champion(monkeypatch)
    Ridge.fit([chord.samples], look_back=4, alpha=1e-3).save(folder / "models" / "ridge", {})
    assert cli.main(["score", song, "--json"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    names = list(json.loads(out)["songs"][0]["forecasters"])
    assert names == ["champion", "cascade", "ridge", "persistence"]


def test_a_piped_score_table_is_plain_text_and_not_cut(folder, make_song, capfd):
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


def test_an_invalid_song_is_one_line_without_partial_output(folder, song, chord, rejection):
    (folder / "empty.mp3").touch()
    (folder / "text.mp3").write_bytes(b"just words\n" * 99)
    for name in ("cut.wav", "cut.ogg"):
        write_song(chord, folder / name)
        (folder / name).write_bytes((folder / name).read_bytes()[:2000])
    for name, reason in [
        ("none.wav", "there is no such file; check the name"),
        ("empty.mp3", "the file is empty (0 bytes)"),
        ("text.mp3", "is text, not supported audio"),
        ("cut.wav", "frames can be read, less than half"),
        ("cut.ogg", "is damaged, it cannot be decoded"),
    ]:
        for flags in ([], ["--json"]):
            line = rejection("score", song, name, "--model", "persistence", *flags)
            assert line.startswith(f"songcast score: {name}: ")
            assert reason in line


def test_a_song_that_fails_after_another_was_scored_leaves_no_partial_document(
    folder, song, rejection
):
    noise = np.random.default_rng(0).integers(-9000, 9000, (60000, 2)).astype(np.int16)
    write_song(songcast.Song(samples=noise, sample_rate_hz=44100, name="x"), folder / "bad.flac")
    data = (folder / "bad.flac").read_bytes()
    (folder / "bad.flac").write_bytes(data[: len(data) // 3])
    assert soundfile.info("bad.flac").frames == 60000  # the header is valid
    assert "bad.flac: " in rejection("score", song, "bad.flac", "--json", "--model", "persistence")


def test_a_model_that_cannot_be_loaded_is_one_line_before_any_scoring(
    folder, song, chord, monkeypatch, rejection
):
    Ridge.fit([chord.samples], look_back=4, alpha=1e-3).save(folder / "altered", {})
    (folder / "altered" / "weights.safetensors").write_bytes(b"altered")
    monkeypatch.setattr(score, "score_song", lambda *_: pytest.fail("scored"))
    for uri, reason in [
        ("nowhere", "nowhere: no model bundle here"),
        ("models:/songcast@champion", "no model is registered yet"),
        ("models:/other/1", "no model is registered yet"),
        ("ridge", "no model bundle here"),
        ("altered", "missing or altered"),
    ]:
        assert reason in rejection("score", song, "--model", "persistence", "--model", uri)


def test_clipped_floats_are_scored_with_a_one_line_warning(folder, capfd):
    soundfile.write("loud.wav", np.array([[1.5], [-2.0], [0.1]]), 44100, "FLOAT")
    assert cli.main(["score", "loud.wav", "--model", "persistence", "--json"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["songs"][0]["frames"] == 3
    assert err.count("\n") == 1
    assert err.startswith("songcast: warning: loud.wav: 2 samples beyond full scale")


def test_memory_does_not_grow_with_the_length_of_the_song(folder, make_song):
    def work(frames):
        name = f"{frames}.wav"
        write_song(make_song(frames, 2), folder / name)
        with tracing() as peak:
            assert cli.main(["score", name, "--model", "persistence"]) == 0
            assert cli.main(["predict", name, "-o", "out.wav", "--model", "persistence"]) == 0
            return peak()

    work(1000)  # what is loaded once
    short, long = work(150_000), work(600_000)
    assert long - short < 500_000  # the samples alone are 1.8 MB longer, the forecast 14 MB


@contextmanager
def tracing():
    """Yields a function that returns the largest number of bytes in use."""
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_silent_and_constant_songs_are_scored(folder, capfd):
    for value in (0, -32768):
        samples = np.full((500, 2), value, np.int16)
        write_song(songcast.Song(samples=samples, sample_rate_hz=8000, name="x"), folder / "dc.wav")
        assert cli.main(["score", "dc.wav", "--model", "cascade", "--json"]) == 0
        assert json.loads(capfd.readouterr().out)["songs"][0]["frames"] == 500


# predict


def test_predict_writes_the_rounded_mean_in_the_format_of_the_suffix(song, capfd):
    original = read_song(song)
    for suffix in (".wav", ".flac", ".mp3", ".m4a", ".ogg"):
        assert cli.main(["predict", song, "-o", f"out{suffix}", "--model", "persistence"]) == 0
        out, err = capfd.readouterr()
        assert err == ""
        assert out.count("\n") == 1
        assert out.startswith(f"out{suffix}: 0.07 s predicted by persistence; prediction gain ")
        predicted = read_song(f"out{suffix}")
        padding = {".m4a": 1024, ".ogg": 128}.get(suffix, 0)  # up to the last codec frame
        assert original.frames <= predicted.frames <= original.frames + padding
        assert predicted.channels == original.channels
        assert predicted.sample_rate_hz == original.sample_rate_hz
        if suffix in (".wav", ".flac"):
            np.testing.assert_array_equal(predicted.samples[1:], original.samples[:-1])


def test_predict_uses_the_champion_by_default(song, monkeypatch, capfd):
    use_champion(monkeypatch)
    assert cli.main(["predict", song, "-o", "out.wav"]) == 0
    assert "predicted by models:/songcast@champion;" in capfd.readouterr().out


def test_predict_rejects_a_bad_output_before_computing_and_writes_nothing(
    song, monkeypatch, rejection
):
    Path("folder.wav").mkdir()
    Path("same.wav").symlink_to(song)
    monkeypatch.setattr(Forecaster, "stream", lambda *_, **__: pytest.fail("computed"))
    before = sorted(Path().iterdir())
    for out, reason in [
        ("out.xyz", "out.xyz: cannot write xyz; use one of .wav .flac"),
        ("out", "out: cannot write a file without suffix"),
        ("none/out.wav", "none/out.wav: cannot be written (No such file or directory)"),
        ("folder.wav", "folder.wav: exists and is not a file"),
        (song, f"{song}: is the song itself; write to another file"),
        ("same.wav", "same.wav: is the song itself"),
    ]:
        assert reason in rejection("predict", song, "-o", out, "--model", "persistence")
    assert "no model is registered yet" in rejection("predict", song, "-o", "out.wav")
    assert sorted(Path().iterdir()) == before


def register_with_sql(folder, bundle, name):
    """Write what MLflow writes for a registered version, before its folder was moved."""
    place = "mlruns/artifacts/songcast/models/m-1/artifacts"
    package = folder / place / "artifacts" / "ridge"
    shutil.copytree(bundle, package)
    tag = {"songcast.bundle_sha256": sha256_of_file(package / "bundle.json")}
    source = f"file:///where/it/was/{place}"
    with closing(sqlite3.connect(folder / "mlruns" / "mlflow.db")) as database, database:
        database.execute(
            "INSERT INTO experiments (experiment_id, name, artifact_location) VALUES (1, ?, ?)",
            ("songcast", "file:///where/it/was/mlruns/artifacts/songcast"),
        )
        database.execute("INSERT INTO registered_models (name) VALUES (?)", (name,))
        database.execute(
            "INSERT INTO model_versions (name, version, creation_time, current_stage, source, "
            "run_id, storage_location) VALUES (?, 1, 0, 'None', 'models:/m-1', 'r', ?)",
            (name, source),
        )
        for key, value in tag.items():
            database.execute(
                "INSERT INTO model_version_tags (key, value, name, version) VALUES (?, ?, ?, 1)",
                (key, value, name),
            )
        database.execute(
            "INSERT INTO registered_model_aliases (alias, version, name) VALUES ('best', 1, ?)",
            (name,),
        )


def test_a_registered_model_is_scored_and_pulled_without_mlflow(folder, song, monkeypatch):
    use_repository(folder, monkeypatch)
    ridge().save(folder / "bundle", {})
    register_with_sql(folder, folder / "bundle", "other-name")
    uri = "models:/other-name@best"
    code = (
        "import sys; from songcast.cli import main; code = main(sys.argv[1:]); "
        "print({'mlflow', 'tensorflow', 'keras'} & {*sys.modules}, file=sys.stderr); sys.exit(code)"
    )
    for words in (
        ["score", song, "--model", uri, "--model", "bundle", "--json"],
        ["pull", uri, "pulled"],
    ):
        program = [sys.executable, "-c", code, *words]
        done = subprocess.run(program, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "set()\n"), words
        if words[0] == "score":
            (entry,) = json.loads(done.stdout)["songs"]
            bits = {name: e["bits_per_sample"] for name, e in entry["forecasters"].items()}
            assert bits[uri] == bits["bundle"]
    assert (folder / "pulled" / "bundle.json").is_file()

"""`songcast inspect`: its document, its table, its one-line errors."""

import json
from pathlib import Path

import numpy as np
import pytest

from songcast.audio.songs import write_song
from songcast.cli import main


@pytest.fixture
def song(tmp_path, make_song, monkeypatch):
    """A song of 3 s with a dropout of 0.1 s in its second channel at 1 s."""
    monkeypatch.setenv("DVC_ROOT", str(Path(__file__).parents[2]))  # the one with params.yaml
    path, made = tmp_path / "song.flac", make_song(3 * 22050, 2, 22050, seed=1)
    made.samples[22050:24255, 1] = 0
    write_song(made, path)
    return path


def test_the_document_has_properties_warnings_and_the_dropout(song, capsys):
    assert main(["inspect", str(song), "--model", "cascade", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["songs"]
    assert (found["path"], found["seconds"], found["channels"]) == (str(song), 3.0, 2)
    (event,) = [event for event in found["events"] if event["kind"] == "dropout"]
    assert event["seconds"] == pytest.approx(1, abs=0.001) and event["channel"] == 1
    assert event["strength"] == pytest.approx(100, abs=1)
    assert "1 dropouts (prepare.expect.max_dropouts: 0)" in found["warnings"]


def test_the_table_names_the_song_its_warnings_and_events(song, capsys):
    assert main(["inspect", str(song), "--model", "persistence"]) == 0
    out = capsys.readouterr().out
    assert "22050 Hz, stereo" in out and "1 dropouts" in out
    assert any(line.split()[1:2] == ["dropout"] for line in out.splitlines())


def test_a_file_that_is_no_song_ends_in_one_line(song, tmp_path, capsys):
    (tmp_path / "text.wav").write_text("no song")
    assert main(["inspect", str(song), str(tmp_path / "text.wav")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "not supported audio" in err


def test_silence_and_a_few_frames_are_inspected(song, tmp_path, capsys, make_song):
    made = make_song(22050, 1, 22050, seed=1)
    made.samples[:] = 0
    write_song(made, tmp_path / "silence.wav")
    write_song(make_song(3, 2, 44100, seed=1), tmp_path / "short.wav")
    paths = [str(tmp_path / name) for name in ("silence.wav", "short.wav")]
    paths += ["--model", "cascade"]
    assert main(["inspect", *paths, "--json"]) == 0
    silence, short = json.loads(capsys.readouterr().out)["songs"]
    assert silence["loudness_lufs"] is None and np.isclose(silence["silent_share"], 1)
    assert short["seconds"] == 0.0 or short["seconds"] < 0.001
    assert main(["inspect", *paths]) == 0


def test_labels_and_a_figure_are_written_and_the_document_stays_valid(song, tmp_path, capsys):
    text, image = tmp_path / "song.txt", tmp_path / "song.png"
    options = ["--model", "persistence", "--labels", str(text), "--plot", str(image), "--json"]
    assert main(["inspect", str(song), *options]) == 0
    (found,) = json.loads(capsys.readouterr().out)["songs"]
    rows = [line.split("\t") for line in text.read_text().splitlines()]
    assert [float(row[0]) for row in rows] == [event["seconds"] for event in found["events"]]
    assert [row[2].split()[0] for row in rows] == [event["kind"] for event in found["events"]]
    assert "dropout" in {row[2].split()[0] for row in rows}
    assert image.read_bytes().startswith(b"\x89PNG")


def test_invalid_options_end_in_one_line_and_write_nothing(song, tmp_path, rejection):
    before = song.read_bytes()
    files = set(tmp_path.iterdir())
    for options, words in (
        (["--model", "no-such-model"], "no-such-model"),
        (["--plot", str(tmp_path / "a.jpg")], "use the suffix .png"),
        (["--labels", str(tmp_path / "no" / "a.txt")], "existing folder"),
        (["--labels", str(tmp_path)], "cannot be written"),
        (["--labels", str(song)], "is the song itself"),
        (["--labels", f"{tmp_path}/a.png", "--plot", f"{tmp_path}/a.png"], "different files"),
        ([str(song), "--labels", str(tmp_path / "a.txt")], "one SONG"),
    ):
        assert words in rejection("inspect", str(song), *options)
    assert song.read_bytes() == before and set(tmp_path.iterdir()) == files

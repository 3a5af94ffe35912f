"""prepare from files to arrays: what it writes, what it refuses, what it survives."""

import json
import logging
import os
import signal
import subprocess
import sys
import wave

import numpy as np
import pytest

from helpers.mlflow_store import use_repository
from helpers.prepare_params import prepare_params
from helpers.waiting import wait_until
from songcast import files
from songcast.audio.conversion import resampled
from songcast.audio.songs import Song, read_song, write_song
from songcast.data import decoding, digests
from songcast.data.corpus import Corpus
from songcast.distributed import engine
from songcast.errors import AudioError, CorpusError, ParamsError, disk_fault
from songcast.files import sha256_of_file
from songcast.stages import prepare as stage
from songcast.stages.prepare import prepare

RATE = 44100


@pytest.fixture
def data(tmp_path, make_song):
    """Three songs (wav stereo, flac mono 22 kHz, ogg 48 kHz) and what else lives in data/."""
    folder = tmp_path / "data"
    (folder / "licences").mkdir(parents=True)
    (folder / "licences" / "a.wav").touch()
    (folder / "SOURCES.md").write_text("sources")
    (folder / ".gitignore").touch()
    write_song(make_song(22050, 2, RATE, seed=1), folder / "Stereo Song.wav")
    write_song(make_song(11025, 1, 22050, seed=2), folder / "mono.flac")
    write_song(make_song(24000, 2, 48000, seed=3), folder / "lossy.OGG")
    return folder


@pytest.fixture
def home(tmp_path):
    return tmp_path / "prepared"


@pytest.fixture
def decoded(monkeypatch):
    """The names of the files that were decoded."""
    names = []
    original = stage.decode_task

    def spy(task):
        names.append(task.source.name)
        return original(task)

    monkeypatch.setattr(stage, "decode_task", spy)
    return names


@pytest.fixture(autouse=True)
def one_core(monkeypatch):
    """Most tests decode in this process; those of several say so."""
    monkeypatch.setattr(engine, "free_cores", lambda: 1)


def snapshot(folder):
    """What is published, byte for byte."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def test_every_song_becomes_an_array_at_the_wanted_rate(data, home):
    prepare(data, home, prepare_params())
    corpus = Corpus.open(home)
    assert [song.slug for song in corpus] == ["lossy", "mono", "stereo-song"]
    for song in corpus:
        source = read_song(data / song.source)
        blocks = resampled([source.samples], source.sample_rate_hz, RATE, source.channels)
        expected = np.concatenate(list(blocks))
        np.testing.assert_array_equal(song.samples, expected)
        assert song.channels == source.channels
        assert song.source_sample_rate_hz == source.sample_rate_hz
        assert (song.frames, song.sample_rate_hz) == (22050, RATE)
        assert song.peak == np.abs(expected.astype(int)).max()
        assert song.splits == {"train": (0, 14817), "validation": (15258, 17374),
                               "test": (17815, 22050)}  # fmt: skip
    assert corpus["stereo-song"].sha256 == sha256_of_file(data / "Stereo Song.wav")


def test_arrays_are_what_numpy_itself_saves(data, home, tmp_path):
    prepare(data, home, prepare_params())
    np.save(tmp_path / "a.npy", read_song(data / "Stereo Song.wav").samples)
    assert (home / "stereo-song.npy").read_bytes() == (tmp_path / "a.npy").read_bytes()


def test_two_runs_give_identical_bytes(data, home, tmp_path):
    prepare(data, home, prepare_params())
    prepare(data, tmp_path / "again", prepare_params())
    first = snapshot(home)
    assert first == snapshot(tmp_path / "again")
    prepare(data, home, prepare_params())
    assert first == snapshot(home)


def test_only_new_and_changed_songs_are_decoded_and_removed_ones_vanish(
    data, home, make_song, decoded, tmp_path
):
    prepare(data, home, prepare_params())
    assert sorted(decoded) == ["Stereo Song.wav", "lossy.OGG", "mono.flac"]
    decoded.clear()
    (data / "lossy.OGG").unlink()
    (data / "mono.flac").touch()
    write_song(make_song(9000, seed=4), data / "new.wav")
    write_song(make_song(22050, 2, RATE, seed=5), data / "Stereo Song.wav")
    prepare(data, home, prepare_params())
    assert sorted(decoded) == ["Stereo Song.wav", "new.wav"]
    assert sorted(snapshot(home)) == ["mono.npy", "new.npy", "songs.json", "stereo-song.npy"]
    prepare(data, tmp_path / "fresh", prepare_params())
    assert snapshot(home) == snapshot(tmp_path / "fresh")


def test_new_splits_decode_nothing_and_a_new_rate_decodes_all(data, home, decoded):
    prepare(data, home, prepare_params())
    decoded.clear()
    prepare(data, home, prepare_params(train_fraction=0.5, test_fraction=0.4, held_out=("mono",)))
    assert decoded == []
    assert Corpus.open(home)["lossy"].splits["train"] == (0, 10584)
    prepare(data, home, prepare_params(sample_rate_hz=22050))
    assert len(decoded) == 3
    assert {song.frames for song in Corpus.open(home)} == {11025}


@pytest.mark.parametrize("name", ["stereo-song", "Stereo Song.wav"])
def test_a_held_out_song_is_all_test(data, home, name):
    prepare(data, home, prepare_params(held_out=(name,)))
    corpus = Corpus.open(home)
    assert corpus["stereo-song"].splits == {"test": (0, 22050)}
    assert list(corpus["mono"].splits) == ["train", "validation", "test"]
    with pytest.raises(ParamsError, match=r"prepare\.held_out names 'x', .* allowed: lossy, mono"):
        prepare(data, home, prepare_params(held_out=("x",)))


def test_damaged_arrays_are_decoded_again(data, home, decoded):
    prepare(data, home, prepare_params())
    good = snapshot(home)
    decoded.clear()
    (home / "mono.npy").unlink()
    (home / "lossy.npy").write_bytes(good["lossy.npy"][:-2])
    prepare(data, home, prepare_params())
    assert sorted(decoded) == ["lossy.OGG", "mono.flac"]
    (home / "songs.json").write_text("{")
    prepare(data, home, prepare_params())
    assert snapshot(home) == good


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("damage", ["header", "middle"])
def test_a_bad_song_names_itself_and_nothing_changes_but_the_rest_is_done(
    data, home, make_song, decoded, existing, damage
):
    if existing:
        prepare(data, home, prepare_params())
    before = snapshot(home) if existing else None
    write_song(make_song(90000, seed=9), data / "also new.wav")
    bad = data / "bad.flac"
    if damage == "header":
        bad.write_bytes(b"")
    else:  # the header is right; only decoding shows it
        write_song(make_song(90000), bad)
        content = bad.read_bytes()
        bad.write_bytes(content[: len(content) // 2])
    with pytest.raises(AudioError, match=r"bad\.flac: .*; copy or download it again"):
        prepare(data, home, prepare_params())
    assert snapshot(home) == (before or {})
    assert "also new.wav" in decoded
    decoded.clear()
    bad.unlink()
    prepare(data, home, prepare_params())
    assert decoded == []
    assert not (home / ".incoming").exists()


def test_all_songs_that_cannot_be_used_are_listed_in_one_run(data, home, caplog):
    """Damaged, unsupported, a folder: nothing is published, the others are decoded once."""
    (data / "b.wav").write_bytes(b"RIFF")
    (data / "a.mp3").write_text("words")
    (data / "c.flac").mkdir()
    for _ in range(3):
        caplog.clear()
        with pytest.raises(AudioError) as caught:
            prepare(data, home, prepare_params())
        assert str(caught.value) == (
            f"{data}: 3 songs cannot be used, see above; replace or remove them"
        )
        lines = [record.message for record in caplog.records if record.levelname == "ERROR"]
        assert lines[0].startswith(f"{data / 'c.flac'}: is a folder")
        assert lines[1].startswith(f"{data / 'a.mp3'}: is text, not supported audio")
        assert lines[2].startswith(f"{data / 'b.wav'}: is damaged, it cannot be decoded")
        assert not (home / "songs.json").exists()


def cut(path, part):
    """Cut the file to a part of its bytes."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])


def test_a_damaged_song_is_prepared_with_a_warning_and_its_damage_is_recorded(data, home, caplog):
    cut(data / "Stereo Song.wav", 0.9)
    expected = "Stereo Song.wav: 19843 of 22050 declared frames can be read"
    with caplog.at_level(logging.WARNING, "songcast"):
        prepare(data, home, prepare_params())
    assert [r.message for r in caplog.records] == [f"warning: {expected}"]
    (entry,) = [song for song in Corpus.open(home) if song.damage]
    assert (entry.slug, entry.frames) == ("stereo-song", 19843)
    assert f"{entry.source}: {entry.damage}" == expected
    for _ in range(2):  # of a kept song too
        with pytest.raises(AudioError, match=f"{expected}; replace it, or set prepare.on_damage"):
            prepare(data, home, prepare_params(on_damage="fail"))
    cut(data / "Stereo Song.wav", 0.4)
    with pytest.raises(AudioError, match="frames can be read, less than half; copy or download"):
        prepare(data, home, prepare_params())


def test_strangers_in_data_are_mentioned_and_documents_are_not(data, home, caplog):
    (data / "cover.jpg").touch()
    (data / "album").mkdir()
    (data / "copy.wav").write_bytes((data / "Stereo Song.wav").read_bytes())
    with caplog.at_level(logging.INFO, "songcast"):
        prepare(data, home, prepare_params())
    text = caplog.text
    assert "cover.jpg: passed over, not one of .wav" in text
    assert "album: folders are passed over" in text
    assert "Stereo Song.wav and copy.wav are the same file" in text
    assert "SOURCES" not in text
    assert "licences" not in text
    assert "mono.flac -> mono: 0.5 s, mono, 22050 Hz -> 44100 Hz" in text
    assert "4 songs: 4 decoded, 0 as before, 0 removed" in text


def test_clipped_float_songs_give_a_warning(data, home, caplog):
    import soundfile

    soundfile.write(data / "loud.wav", np.full((99, 1), 1.5), RATE, subtype="FLOAT")
    with caplog.at_level(logging.INFO, "songcast"):
        prepare(data, home, prepare_params())
    assert "loud.wav: 99 samples beyond full scale were clipped" in caplog.text
    assert Corpus.open(home)["loud"].peak == 32767


def test_one_sample_is_prepared_and_one_that_vanishes_is_refused(data, home):
    song = Song(samples=np.array([[-32768]], np.int16), sample_rate_hz=RATE, name="one")
    write_song(song, data / "one.wav")
    prepare(data, home, prepare_params())
    one = Corpus.open(home)["one"]
    assert (one.frames, one.peak, one.splits) == (1, 32768, {"test": (0, 1)})
    with pytest.raises(AudioError, match=r"one\.wav: is too short for 8000 Hz"):
        prepare(data, home, prepare_params(sample_rate_hz=8000))


def test_no_songs_and_no_folder_are_refused(tmp_path, home):
    with pytest.raises(CorpusError, match="there is no such folder"):
        prepare(tmp_path / "data", home, prepare_params())
    (tmp_path / "data").mkdir()
    with pytest.raises(CorpusError, match=r"no songs; add one of \.wav"):
        prepare(tmp_path / "data", home, prepare_params())


@pytest.mark.parametrize("step", [(decoding, "_write_header"), (files, "sync_file")])
def test_a_full_disk_is_one_line(data, home, monkeypatch, step):
    def full(*_):
        raise OSError(28, "No space left on device", str(home / "mono.npy"))

    monkeypatch.setattr(*step, full)
    with pytest.raises(OSError) as caught:
        prepare(data, home, prepare_params())
    line = disk_fault(caught.value)
    assert line == f"{home / 'mono.npy'}: the disk is full; free some space and run it again"
    assert snapshot(home) == {}


@pytest.mark.parametrize("step", range(14))
def test_a_crash_at_any_step_of_publication_is_repaired_by_the_next_run(
    data, home, make_song, monkeypatch, tmp_path, step
):
    """After the crash the old files of data/ return: nothing stale may be taken for them."""
    prepare(data, home, prepare_params())
    good = snapshot(home)
    original = (data / "Stereo Song.wav").read_bytes()
    write_song(make_song(22050, 2, RATE, seed=6), data / "Stereo Song.wav")  # same size
    write_song(make_song(5000, seed=7), data / "new.wav")
    (data / "lossy.OGG").rename(tmp_path / "aside")

    class Killed(BaseException):
        pass

    left = [step]

    def limited(function):
        def call(*arguments, **options):
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return function(*arguments, **options)

        return call

    for name in ("replace", "unlink"):
        monkeypatch.setattr(stage.Path, name, limited(getattr(stage.Path, name)))
    monkeypatch.setattr(stage.shutil, "rmtree", lambda *_, **__: None)  # no tidying when killed
    try:
        prepare(data, home, prepare_params())
    except Killed:
        pass
    else:
        assert step > 8
    monkeypatch.undo()
    (data / "Stereo Song.wav").write_bytes(original)
    (data / "new.wav").unlink()
    (tmp_path / "aside").rename(data / "lossy.OGG")
    prepare(data, home, prepare_params())
    assert snapshot(home) == good


def run_stage(home, **options):
    command = [sys.executable, "-m", "songcast.stages.prepare"]
    environment = {k: v for k, v in os.environ.items() if k != "DVC_ROOT"}
    return subprocess.Popen(
        command, cwd=home, env=environment, text=True, stderr=subprocess.PIPE, **options
    )


@pytest.fixture
def repository(data, monkeypatch):
    """A folder with data/ and a params.yaml, as the stage finds it."""
    from pathlib import Path

    params = (Path(__file__).parents[2] / "params.yaml").read_text()
    short = params.replace("min_seconds: 2.0", "min_seconds: 0.0")
    (data.parent / "params.yaml").write_text(short)
    return use_repository(data.parent, monkeypatch)


def test_as_a_program_it_logs_and_refuses_with_one_line_and_2(repository):
    process = run_stage(repository)
    lines = process.communicate()[1].splitlines()
    assert process.returncode == 0
    assert sorted(lines) == [
        "3 songs: 3 decoded, 0 as before, 0 removed",
        "Stereo Song.wav -> stereo-song: 0.5 s, stereo, 44100 Hz",
        "lossy.OGG -> lossy: 0.5 s, stereo, 48000 Hz -> 44100 Hz",
        "mono.flac -> mono: 0.5 s, mono, 22050 Hz -> 44100 Hz",
    ]
    index = json.loads((repository / "prepared" / "songs.json").read_text())
    assert [song["slug"] for song in index["songs"]] == ["lossy", "mono", "stereo-song"]
    (repository / "data" / "x.mp3").write_text("words")
    process = run_stage(repository)
    error = process.communicate()[1]
    assert process.returncode == 2
    assert error.startswith("songcast prepare: ")
    assert error.count("\n") == 1
    assert "x.mp3: is text, not supported audio; songcast reads wav" in error


def finished_songs(repository):
    """Arrays of the songs that a running prepare has decoded."""
    return list((repository / "prepared" / ".incoming").glob("[!.]*.npy"))


def write_half_an_hour(path):
    """Silence in stereo at 48 kHz, sparse: zeros that take no disk, and long to decode."""
    with wave.open(str(path), "wb") as file:
        file.setparams((2, 2, 48000, 0, "NONE", ""))
        file.writeframes(b"")
    header, size = path.read_bytes(), 1800 * 48000 * 4
    with path.open("wb") as file:
        file.write(header[:4] + (36 + size).to_bytes(4, "little"))
        file.write(header[8:40] + size.to_bytes(4, "little"))
        file.truncate(44 + size)


def test_a_prepare_killed_while_decoding_resumes_with_the_other_songs(repository):
    prepare(repository / "data", repository / "wanted", prepare_params(guard_seconds=0.1))
    write_half_an_hour(repository / "data" / "z.wav")
    process = run_stage(repository)
    wait_until(lambda: len(finished_songs(repository)) == 3, lambda: process.poll() is None)
    process.send_signal(signal.SIGKILL)
    process.communicate()  # ends only when the workers, who share stderr, have died too
    assert process.returncode == -signal.SIGKILL
    assert not (repository / "prepared" / "songs.json").exists()
    (repository / "data" / "z.wav").unlink()
    process = run_stage(repository)
    lines = process.communicate()[1].splitlines()
    assert process.returncode == 0
    assert lines == [
        "3 songs were decoded before the last run stopped",
        "3 songs: 3 decoded, 0 as before, 0 removed",
    ]
    assert snapshot(repository / "prepared") == snapshot(repository / "wanted")


def test_an_array_and_its_record_are_on_the_disk_before_they_have_their_names(
    data, home, monkeypatch
):
    synced, named = [], []
    replace = stage.Path.replace
    monkeypatch.setattr(files, "sync_file", lambda path: synced.append(path))

    def spy(path, target):
        if target.suffix in (".npy", ".json") and path.name.startswith(".songcast-"):
            assert path in synced
            named.append(target.parent.name)
        return replace(path, target)

    monkeypatch.setattr(stage.Path, "replace", spy)
    prepare(data, home, prepare_params())
    # The array of a song follows its record: a song with an array is complete.
    assert [name for name in named if name in ("inspected", ".incoming")] == [
        *("inspected", ".incoming")
    ] * 3


def test_a_change_of_the_decoding_code_decodes_all_songs_again(data, home, decoded, monkeypatch):
    prepare(data, home, prepare_params())
    prepare(data, home, prepare_params())
    songs = len(decoded)
    monkeypatch.setattr(stage, "code_digest", lambda *_: "other code")
    prepare(data, home, prepare_params())
    assert sorted(decoded[songs:]) == sorted(decoded[:songs])
    prepare(data, home, prepare_params())
    assert len(decoded) == 2 * songs


def test_a_decoded_array_is_used_for_its_content_only(data, home, make_song, decoded, tmp_path):
    """The first run leaves decoded songs; then one changes, and another loses its record."""
    bad = data / "zz.wav"
    bad.write_bytes(b"RIFF")
    with pytest.raises(AudioError):
        prepare(data, home, prepare_params())
    decoded.clear()
    write_song(make_song(22050, 2, RATE, seed=8), data / "Stereo Song.wav")  # same size
    (array,) = (home / ".incoming").glob("mono-*.npy")
    key = array.stem.removeprefix("mono-")
    (home.parent / "checkpoints" / "inspected" / f"{key}.json").unlink()
    bad.unlink()
    prepare(data, home, prepare_params())
    assert sorted(decoded) == ["Stereo Song.wav", "mono.flac"]
    prepare(data, tmp_path / "fresh", prepare_params())
    assert snapshot(home) == snapshot(tmp_path / "fresh")


def test_several_processes_give_the_same_bytes(data, home, tmp_path, monkeypatch):
    prepare(data, tmp_path / "one", prepare_params())
    monkeypatch.setattr(engine, "free_cores", lambda: 2)
    prepare(data, home, prepare_params())
    assert snapshot(home) == snapshot(tmp_path / "one")
    (data / "bad.wav").write_bytes(b"RIFF")
    with pytest.raises(AudioError, match=r"bad\.wav: is damaged"):
        prepare(data, home, prepare_params(sample_rate_hz=22050))


def test_unchanged_files_are_not_read_again(data, home, monkeypatch):
    """Files of the last two seconds might still change: they are made older here."""
    for path in data.iterdir():
        os.utime(path, ns=(10**18, 10**18))
    prepare(data, home, prepare_params())
    read = []
    original = digests.sha256_of_file
    monkeypatch.setattr(
        digests, "sha256_of_file", lambda path: read.append(path.name) or original(path)
    )
    prepare(data, home, prepare_params())
    assert read == []
    (data / "mono.flac").write_bytes((data / "Stereo Song.wav").read_bytes())
    prepare(data, home, prepare_params())
    assert read == ["mono.flac"]
    assert Corpus.open(home)["mono"].sha256 == Corpus.open(home)["stereo-song"].sha256

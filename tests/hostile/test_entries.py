"""Every hostile song at every entry: sound, or one line and exit 2; nothing half-written."""

import json
import warnings
from pathlib import Path

import pytest
from hostile_songs import Hostile, catalogue

from songcast import cli
from songcast.audio import SongWarning, read_song
from songcast.corpus import Corpus
from songcast.errors import SongcastError
from songcast.params import PrepareParams
from songcast.stages.prepare import prepare

CATALOGUE = catalogue()
PARAMS = PrepareParams(
    sample_rate_hz=44100,
    train_fraction=0.7,
    validation_fraction=0.1,
    test_fraction=0.2,
    guard_seconds=0.0,
    held_out=(),
)


def test_there_are_sixty_or_more():
    assert len(CATALOGUE) >= 60


@pytest.fixture(params=CATALOGUE, ids=lambda song: song.name)
def hostile(request):
    return request.param


@pytest.fixture
def data(tmp_path, monkeypatch, hostile):
    """A folder with the song in it, being the current one, with no repository around."""
    folder = tmp_path / "data"
    folder.mkdir()
    hostile.write(folder / hostile.file)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.chdir(folder)
    return folder


def one_line(message: str) -> None:
    assert message.count("\n") == 1, message
    assert message.startswith("songcast")


def run(capfd, *arguments: str) -> tuple[int, str, str]:
    code = cli.main(arguments)
    out, err = capfd.readouterr()
    return code, out, err


def check_refusal(hostile: Hostile, code: int, out: str, err: str) -> None:
    assert (code, out) == (2, "")
    one_line(err)
    assert hostile.said in err


def test_score(data, hostile, capfd):
    arguments = ("score", "--json", "--model", "persistence", "--", hostile.file)
    code, out, err = run(capfd, *arguments)
    if hostile.sound is None:
        check_refusal(hostile, code, out, err)
        return
    frames, channels, rate = hostile.sound
    assert code == 0, err
    song = json.loads(out)["songs"][0]
    assert (song["channels"], song["sample_rate_hz"]) == (channels, rate)
    assert song["frames"] == frames or (frames is None and song["frames"] > 0)
    assert err.count("\n") <= 1  # a warning that names the clipped song


def test_predict(data, hostile, capfd, tmp_path):
    target = tmp_path / "out.wav"
    before = sorted(tmp_path.iterdir())
    arguments = ("predict", "--model", "persistence", "-o", str(target), "--", hostile.file)
    code, out, err = run(capfd, *arguments)
    if hostile.sound is None:
        check_refusal(hostile, code, out, err)
        assert sorted(tmp_path.iterdir()) == before
        return
    assert code == 0, err
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SongWarning)
        source, predicted = read_song(Path(hostile.file)), read_song(target)
    assert predicted.sample_rate_hz == source.sample_rate_hz
    # Persistence says the sample before; of the first it says zero.
    assert (predicted.samples[0] == 0).all()
    assert (predicted.samples[1:] == source.samples[:-1]).all()


def test_prepare(data, hostile, tmp_path):
    home = tmp_path / "prepared"
    if hostile.sound is None:
        with pytest.raises(SongcastError) as caught:
            prepare(data, home, PARAMS)
        assert "\n" not in str(caught.value)
        assert not (home / "songs.json").exists()
        assert not list(home.glob("*.npy"))
        return
    prepare(data, home, PARAMS)
    (song,) = Corpus.open(home).songs
    frames, channels, rate = hostile.sound
    assert song.channels == channels
    assert frames is None or song.frames == pytest.approx(frames * 44100 / rate, abs=1)

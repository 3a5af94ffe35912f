"""Every hostile song at every entry: its sound, or one line and exit 2; nothing half-written."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest
import table
from heard_songs import depths, names
from hostile_songs import catalogue
from outcomes import NOT_SENT, REFUSED, SOUND, Hostile
from sound_files import read_pcm

from helpers.prepare_params import prepare_params
from helpers.serving_models import app_of, running
from helpers.small_continuation import continuation_model
from songcast import cli
from songcast.commands import forecasting
from songcast.data.corpus import Corpus
from songcast.errors import SongcastError
from songcast.forecasting.baselines import Persistence
from songcast.serving.jobs import Limits
from songcast.stages.prepare import prepare

CATALOGUE = catalogue()
SECONDS = 0.02
# Continuing costs most at high rates; under another name or depth it is the same sound again.
AGAIN = {song.name for song in (*depths(), *names())}
CONTINUED = [
    pytest.param(song, marks=pytest.mark.slow)
    if song.name in AGAIN or (song.sound and song.sound.rate_hz > 48_000)
    else song
    for song in CATALOGUE
]


class Model(Persistence):
    """Expects the sample before, and goes on with a network of random weights."""

    def __init__(self):
        self._continuer = continuation_model()

    @property
    def continuation_model(self):
        return self._continuer


@pytest.fixture(scope="session")
def model():
    return Model()


@pytest.fixture(scope="session")
def server(model):
    with running(app_of(model, Limits(workers=1))) as client:
        yield client


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


@pytest.fixture
def command(data, hostile, capfd, tmp_path):
    """command(entry, *options) -> stdout; None where it was refused as it should be."""

    def run(entry, *options):
        before = sorted(tmp_path.rglob("*"))
        code = cli.main((entry, *options, "--", hostile.file))
        out, err = capfd.readouterr()
        if hostile.outcome(entry) == SOUND:
            assert code == 0, err
            assert err.count("\n") <= 1  # a warning that names the clipped song
            return out
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert err.startswith(f"songcast {entry}: ")
        assert hostile.said in err
        assert sorted(tmp_path.rglob("*")) == before
        return None

    return run


def test_the_page_tells_these_outcomes():
    page = table.PAGE.read_text()
    assert page == table.with_table(page), "run python tests/hostile/table.py"


def level(samples):
    return np.sqrt(np.mean(np.square(samples, dtype=np.float64)))


def check_sound(hostile: Hostile, samples, rate_hz, more_frames=0):
    """Right rate, channels, length and level; ``more_frames`` may follow the song."""
    sound = hostile.sound
    frames = len(samples) - more_frames
    assert (rate_hz, samples.shape[1]) == (sound.rate_hz, sound.channels)
    assert frames == sound.frames or (sound.frames is None and frames > 20_000)
    tolerance = 0.03 if sound.frames else 0.3
    assert level(samples[:frames]) == pytest.approx(sound.level, rel=tolerance, abs=1)


def check_shifted(hostile: Hostile, samples, rate_hz):
    """What persistence says of a song: silence, then the song but for its last frame."""
    assert not samples[0].any()
    if hostile.sound.frames != 1:
        shifted = np.concatenate([samples[1:], samples[1:2]])
        check_sound(hostile, shifted, rate_hz)


def test_score(command, hostile):
    out = command("score", "--json", "--model", "persistence")
    if out is not None:
        (song,) = json.loads(out)["songs"]
        sound = hostile.sound
        assert (song["channels"], song["sample_rate_hz"]) == (sound.channels, sound.rate_hz)
        assert song["frames"] == sound.frames or (sound.frames is None and song["frames"] > 20_000)
        assert 0 < song["forecasters"]["persistence"]["bits_per_sample"] < 40


def test_predict(command, hostile):
    if command("predict", "--model", "persistence", "-o", "../out.wav") is not None:
        check_shifted(hostile, *read_pcm(Path("../out.wav")))


@pytest.mark.parametrize("hostile", CONTINUED, ids=lambda song: song.name, indirect=True)
def test_continue(command, hostile, model, monkeypatch):
    monkeypatch.setattr(forecasting, "load_model", lambda uri: model)
    options = ("--model", "models/train", "--seconds", str(SECONDS), "-o", "../out.wav")
    if command("continue", *options) is None:
        return
    samples, rate_hz = read_pcm(Path("../out.wav"))
    more = round(SECONDS * hostile.sound.rate_hz)
    check_sound(hostile, samples, rate_hz, more_frames=more)
    check_continuation(hostile, samples[-more:])


def check_continuation(hostile: Hostile, samples):
    """About as loud as the song, and silence goes on in silence."""
    assert hostile.sound.level / 2 - 1 < level(samples) < hostile.sound.level * 2 + 1


def test_prepare(data, hostile, tmp_path):
    home = tmp_path / "prepared"
    if hostile.outcome("prepare") == REFUSED:
        with pytest.raises(SongcastError) as caught:
            prepare(data, home, prepare_params())
        assert hostile.said in str(caught.value)
        assert "\n" not in str(caught.value)
        assert not (home / "songs.json").exists()
        assert not list(home.rglob("*.npy"))
        return
    prepare(data, home, prepare_params())
    (song,) = Corpus.open(home).songs
    sound, samples = hostile.sound, np.load(song.path)
    assert samples.shape[1] == song.channels == sound.channels
    if sound.frames:
        assert len(samples) == pytest.approx(sound.frames * 44100 / sound.rate_hz, abs=1)
    # White noise loses what a lower rate cannot hold.
    kept = min(1.0, 44100 / sound.rate_hz) ** 0.5
    tolerance = 0.05 if sound.frames else 0.3
    assert level(samples) == pytest.approx(sound.level * kept, rel=tolerance, abs=1)


def refused_by(answer):
    """The one line of a refusal by the server."""
    assert answer.status_code == 422, answer.text
    said = answer.json()["message"]
    assert said.startswith("song") and "\n" not in said
    assert "cannot be decoded within" not in said  # no decoder died of it
    return said


def test_serve(data, hostile, server, tmp_path):
    if hostile.outcome("serve") == NOT_SENT:
        return
    song = base64.b64encode(Path(hostile.file).read_bytes()).decode()
    answer = server.post("/invocations", json={"inputs": [song]})
    if hostile.outcome("serve") == REFUSED:
        said = refused_by(answer)
        assert hostile.said in said or hostile.said == hostile.file
        return
    (row,) = answer.json()["predictions"]
    (tmp_path / "out.wav").write_bytes(base64.b64decode(row["audio"]))
    check_shifted(hostile, *read_pcm(tmp_path / "out.wav"))
    assert row["sample_rate_hz"] == hostile.sound.rate_hz


@pytest.mark.slow
def test_serve_continue(data, hostile, server, tmp_path):
    if hostile.outcome("serve /continue") == NOT_SENT:
        return
    content = Path(hostile.file).read_bytes()
    answer = server.post("/continue", params={"seconds": SECONDS}, content=content)
    if hostile.outcome("serve /continue") == REFUSED:
        refused_by(answer)
        return
    (tmp_path / "out.wav").write_bytes(answer.content)
    samples, rate_hz = read_pcm(tmp_path / "out.wav")
    assert (rate_hz, samples.shape[1]) == (hostile.sound.rate_hz, hostile.sound.channels)
    assert len(samples) == round(SECONDS * rate_hz)
    check_continuation(hostile, samples)

"""Each hostile song at each entry gives its sound, or one line and exit code 2, and no file."""

import base64
import contextlib
import json
from pathlib import Path

import numpy as np
import pytest

from helpers.hostile.accepted import depths, names
from helpers.hostile.catalogue import catalogue, groups
from helpers.hostile.outcomes import ENTRIES, NOT_SENT, REFUSED, SOUND, Hostile
from helpers.hostile.sound_files import read_pcm
from helpers.prepare_params import prepare_params
from helpers.serving_models import app_of, running
from helpers.small_continuation import continuation_model
from songcast import cli
from songcast.commands import loading
from songcast.data.corpus import Corpus
from songcast.errors import SongcastError
from songcast.forecasting.baselines import Persistence
from songcast.registry.models import Model
from songcast.serving.jobs import Limits
from songcast.stages.prepare import prepare

PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"
SECONDS = 0.02
# The same sound under another name or bit depth, and the rates that take longest to continue.
SAME_SOUND = {song.name for song in (*depths(), *names())}
SLOW = [
    song
    for song in catalogue()
    if song.name in SAME_SOUND or (song.sound and song.sound.rate_hz > 48_000)
]
QUICK = [song for song in catalogue() if song.name not in {slow.name for slow in SLOW}]


@pytest.fixture(scope="module")
def model():
    """Predicts the previous sample; continues with a network of random weights."""
    model = Model(Persistence())
    model.continuation = continuation_model()
    return model


@pytest.fixture(scope="module")
def server(model):
    with running(app_of(model, Limits(workers=1))) as client:
        yield client


@pytest.fixture
def each(tmp_path, monkeypatch):
    """each(songs): each song, written into a new folder ``data`` that is the current one."""

    def write(songs):
        for number, song in enumerate(songs):
            folder = tmp_path / str(number) / "data"
            folder.mkdir(parents=True)
            song.write(folder / song.file)
            monkeypatch.setenv("DVC_ROOT", str(folder.parent))
            monkeypatch.chdir(folder)
            with named(song):
                yield song

    return write


@contextlib.contextmanager
def named(song: Hostile):
    """Add the name of the song to a failure."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"hostile song: {song.name}")
        raise


@pytest.fixture
def run(capfd):
    """run(song, entry, *options): the output of a command, None if it refused the song."""

    def command(song, entry, *options):
        home = Path("..").resolve()
        before = sorted(home.rglob("*"))
        code = cli.main((entry, *options, "--", song.file))
        out, err = capfd.readouterr()
        if song.outcome(entry) == SOUND:
            assert code == 0, err
            assert err.count("\n") <= 1  # a warning that names a clipped or damaged song
            return out
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert err.startswith(f"songcast {entry}: ")
        assert song.message in err
        assert sorted(home.rglob("*")) == before
        return None

    return command


def level(samples):
    return np.sqrt(np.mean(np.square(samples, dtype=np.float64)))


def check_sound(song: Hostile, samples, rate_hz, more_frames=0):
    """Check rate, channels, length and level; ``more_frames`` may follow the song."""
    sound = song.sound
    frames = len(samples) - more_frames
    assert (rate_hz, samples.shape[1]) == (sound.rate_hz, sound.channels)
    assert frames == sound.frames or (sound.frames is None and frames >= sound.least)
    tolerance = 0.03 if sound.frames else 0.3
    assert level(samples[:frames]) == pytest.approx(sound.level, rel=tolerance, abs=1)


def check_shifted(song: Hostile, samples, rate_hz):
    """Check the forecast of persistence: one silent frame, then the song without its last one."""
    assert not samples[0].any()
    if song.sound.frames != 1:
        shifted = np.concatenate([samples[1:], samples[1:2]])
        check_sound(song, shifted, rate_hz)


def check_continuation(song: Hostile, samples):
    """Check that the continuation has the level of the song within 6 dB.

    It may begin more quietly after a file that ends with the padding of its encoder.
    """
    least = song.sound.level / (2 if song.sound.frames else 3)
    assert least - 1 < level(samples) < song.sound.level * 2 + 1


def test_score(each, run):
    for hostile in each(catalogue()):
        out = run(hostile, "score", "--json", "--model", "persistence")
        if out is not None:
            (song,) = json.loads(out)["songs"]
            sound = hostile.sound
            assert (song["channels"], song["sample_rate_hz"]) == (sound.channels, sound.rate_hz)
            lossy_frames = sound.frames is None and song["frames"] >= sound.least
            assert song["frames"] == sound.frames or lossy_frames
            assert 0 < song["forecasters"]["persistence"]["bits_per_sample"] < 40


def test_predict(each, run):
    for song in each(catalogue()):
        if run(song, "predict", "--model", "persistence", "-o", "../out.wav") is not None:
            check_shifted(song, *read_pcm(Path("../out.wav")))


@pytest.mark.parametrize("songs", [QUICK, pytest.param(SLOW, marks=pytest.mark.slow)])
def test_continue(each, run, model, monkeypatch, songs):
    monkeypatch.setattr(loading, "load_model", lambda uri: model)
    options = ("--model", "models/train", "--seconds", str(SECONDS), "-o", "../out.wav")
    for song in each(songs):
        if run(song, "continue", *options) is not None:
            samples, rate_hz = read_pcm(Path("../out.wav"))
            more = round(SECONDS * song.sound.rate_hz)
            check_sound(song, samples, rate_hz, more_frames=more)
            check_continuation(song, samples[-more:])


def test_prepare(each):
    for song in each(catalogue()):
        home = Path("../prepared").resolve()
        if song.outcome("prepare") == REFUSED:
            with pytest.raises(SongcastError) as caught:
                prepare(Path.cwd(), home, prepare_params())
            assert song.message in str(caught.value)
            assert "\n" not in str(caught.value)
            assert not (home / "songs.json").exists()
            assert not list(home.rglob("*.npy"))
        else:
            prepare(Path.cwd(), home, prepare_params())
            (prepared,) = Corpus.open(home).songs
            check_prepared(song, prepared)


def check_prepared(song: Hostile, prepared):
    sound, samples = song.sound, np.load(prepared.path)
    assert samples.shape[1] == prepared.channels == sound.channels
    if sound.frames:
        assert len(samples) == pytest.approx(sound.frames * 44100 / sound.rate_hz, abs=1)
    # Resampling to a lower rate removes part of the white noise.
    kept = min(1.0, 44100 / sound.rate_hz) ** 0.5
    tolerance = 0.05 if sound.frames else 0.3
    assert level(samples) == pytest.approx(sound.level * kept, rel=tolerance, abs=1)


def check_refusal(answer):
    """Check the status and return the message."""
    assert answer.status_code == 422, answer.text
    message = answer.json()["message"]
    assert message.startswith("song") and "\n" not in message
    assert "cannot be decoded within" not in message  # no decoder process died
    return message


def test_serve(each, server):
    for song in each(s for s in catalogue() if s.outcome("serve") != NOT_SENT):
        content = base64.b64encode(Path(song.file).read_bytes()).decode()
        answer = server.post("/invocations", json={"inputs": [content]})
        if song.outcome("serve") == REFUSED:
            assert song.message in check_refusal(answer) or song.message == song.file
        else:
            (row,) = answer.json()["predictions"]
            Path("../out.wav").write_bytes(base64.b64decode(row["audio"]))
            check_shifted(song, *read_pcm(Path("../out.wav")))
            assert row["sample_rate_hz"] == song.sound.rate_hz


@pytest.mark.slow
def test_serve_continue(each, server):
    for song in each(s for s in catalogue() if s.outcome("serve /continue") != NOT_SENT):
        content = Path(song.file).read_bytes()
        answer = server.post("/continue", params={"seconds": SECONDS}, content=content)
        if song.outcome("serve /continue") == REFUSED:
            check_refusal(answer)
        else:
            Path("../out.wav").write_bytes(answer.content)
            samples, rate_hz = read_pcm(Path("../out.wav"))
            assert (rate_hz, samples.shape[1]) == (song.sound.rate_hz, song.sound.channels)
            assert len(samples) == round(SECONDS * rate_hz)
            check_continuation(song, samples)


def test_the_table_in_the_documentation_lists_these_outcomes():
    rows = [
        [title, str(len(songs)), *(songs[0].outcome(entry) for entry in ENTRIES)]
        for title, songs in groups().items()
    ]
    total = ["all", str(len(catalogue())), *([""] * len(ENTRIES))]
    for songs in groups().values():
        assert len({tuple(song.outcome(entry) for entry in ENTRIES) for song in songs}) == 1
    lines = ["| " + " | ".join(row).rstrip(" |") for row in (*rows, total)]
    table = PAGE.read_text().split("<!-- hostile songs -->")[1].split("<!-- end")[0]
    assert [line.rstrip(" |") for line in table.strip().splitlines()[2:]] == lines

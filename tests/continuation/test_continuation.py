"""Continuations: requests, determinism, level, retrieval, bundles, the command."""

import json
import tracemalloc

import numpy as np
import pytest

from helpers.small_continuation import continuation_model
from helpers.small_models import music, randomised, song
from songcast import cli
from songcast.audio.songs import Song, read_song, write_song
from songcast.bundle import read_manifest, write_package
from songcast.continuation.model import ContinuationModel
from songcast.continuation.retrieval import Retrieval
from songcast.errors import BundleError, ContinuationError, SongcastError
from songcast.registry.models import load

RATE_HZ = 8000


@pytest.fixture(scope="module")
def model():
    return continuation_model()


def piece(frames=30000, channels=2, rate_hz=RATE_HZ, seed=0):
    return Song(samples=music(frames, channels, seed), sample_rate_hz=rate_hz, name="piece")


def rms(samples):
    return float(np.sqrt(np.mean(samples.astype(float) ** 2)))


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate_hz", [8000, 48000, 96000])
def test_continuation_keeps_rate_channels_and_level(model, channels, rate_hz):
    prompt = piece(rate_hz, channels, rate_hz)
    more = model.continue_song(prompt, seconds=0.1)
    assert more.samples.dtype == np.int16
    assert more.samples.shape == (round(0.1 * rate_hz), channels)
    assert more.sample_rate_hz == rate_hz
    assert 0.5 < rms(more.samples) / rms(prompt.samples) < 2


def test_seed_determines_the_continuation(model):
    first, again, other = (
        model.continue_song(piece(), 1.0, seed=seed).samples for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, again)
    assert np.mean(first != other) > 0.5


def test_streamed_blocks_equal_the_whole_continuation(model):
    stream = model.stream_song(piece(), 1.0, seed=2)
    first = next(stream)
    assert 0 < len(first) < RATE_HZ // 4
    whole = np.concatenate([first, *stream])
    np.testing.assert_array_equal(whole, model.continue_song(piece(), 1.0, seed=2).samples)


@pytest.mark.parametrize("frames", [16, 100, 1500, 9000])
def test_short_songs_can_be_continued(model, frames):
    prompt = piece(frames)
    more = model.continue_song(prompt, 0.5).samples
    assert 0.2 < rms(more) / rms(prompt.samples) < 5


@pytest.mark.parametrize(
    "signal",
    [
        8000 * np.sin(np.arange(30000) * 0.3),
        np.full(30000, 20000.0),
        32767 * np.sign(np.sin(np.arange(30000) * 0.05)),
        np.random.default_rng(0).integers(-32768, 32767, 30000).astype(float),
    ],
    ids=["tone", "dc", "square", "full-scale noise"],
)
def test_extreme_signals_stay_near_their_level(model, signal):
    prompt = Song(samples=signal.astype(np.int16)[:, None], sample_rate_hz=RATE_HZ, name="hard")
    more = model.continue_song(prompt, 4.0).samples[RATE_HZ:]
    assert 10 ** (-6 / 20) < rms(more) / rms(prompt.samples) < 10 ** (6 / 20)


def test_silence_continues_as_silence(model):
    prompt = Song(samples=np.zeros((30000, 2), np.int16), sample_rate_hz=RATE_HZ, name="rest")
    assert not np.any(model.continue_song(prompt, 1.0).samples)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"seconds": 0.0}, "seconds is 0: must be above 0 and at most 3600"),
        ({"seconds": -2.0}, "seconds is -2"),
        ({"seconds": float("nan")}, "seconds is nan"),
        ({"seconds": 3601.0}, "seconds is 3601"),
        ({"temperature": -0.1}, "temperature is -0.1: must be 0 or more"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_invalid_requests_fail_at_once(model, settings, said):
    for ask in (model.continue_song, model.stream_song):
        with pytest.raises(ContinuationError, match=said):
            ask(piece(), **settings)


def test_too_short_and_three_channel_songs_are_refused(model):
    with pytest.raises(ContinuationError, match="piece: 15 frames are too short"):
        model.continue_song(piece(15))
    three = Song(samples=np.zeros((999, 3), np.int16), sample_rate_hz=RATE_HZ, name="three")
    with pytest.raises(SongcastError, match="three: has 3 channels"):
        model.continue_song(three)


# Retrieval.


def melody(seconds=12, seed=0):
    """Four notes and noise, the second half a repetition of the first: (frames, 1) int16."""
    t = np.arange(RATE_HZ * seconds // 2) / RATE_HZ
    notes = np.choose((t * 1.3).astype(int) % 4, [220.0, 330.0, 262.0, 392.0])
    once = 6000 * np.sin(2 * np.pi * np.cumsum(notes) / RATE_HZ)
    once += np.random.default_rng(seed).normal(0, 30, len(t))
    return np.rint(np.concatenate([once, once])).astype(np.int16)[:, None]


def test_retrieval_finds_a_repetition_to_the_sample():
    signal = melody()
    prompt = signal[: 9 * RATE_HZ]
    retrieval = Retrieval(prompt, RATE_HZ)
    place = retrieval.aligned(len(prompt), retrieval.find(len(prompt), 4)[0])
    assert place.frame == 3 * RATE_HZ
    assert place.distance_db < 1.5


def test_retrieval_in_a_short_song_returns_no_place():
    signal = melody()[:1000]
    assert Retrieval(signal, RATE_HZ).find(1000, 4) == []


# Bundles and the command line.


@pytest.fixture(scope="module")
def bundle(model, tmp_path_factory):
    """A forecaster's bundle, with the bundle of the continuation model beside it."""
    folder = tmp_path_factory.mktemp("models")
    model.save(folder / "continuation", {"params": {}})
    details = {"sample_rate_hz": RATE_HZ, "channels": 2, "params": {}}
    randomised().save(folder / "train", details)
    return folder / "train"


def test_a_bundle_beside_a_continuation_bundle_and_a_package_continue_as_the_model(
    model, bundle, tmp_path
):
    write_package(tmp_path / "package", bundle, bundle.parent / "continuation")
    for folder in (bundle, tmp_path / "package"):
        loaded = load(folder)
        expected = model.continue_song(piece(), 0.5, seed=1).samples
        np.testing.assert_array_equal(loaded.continue_song(piece(), 0.5, seed=1).samples, expected)
        streamed = np.concatenate(list(loaded.stream_song(piece(), 0.5, seed=1)))
        np.testing.assert_array_equal(streamed, expected)


def test_the_manifest_of_a_package_covers_the_continuation_model(bundle, tmp_path):
    package = tmp_path / "package"
    write_package(package, bundle, bundle.parent / "continuation")
    manifest, own = read_manifest(package), read_manifest(bundle)
    assert manifest["weights_sha256"] == own["weights_sha256"]
    continuation = read_manifest(bundle.parent / "continuation")
    assert manifest["continuation_weights_sha256"] == continuation["weights_sha256"]
    network = package / "continuation" / "weights.safetensors"
    network.write_bytes(network.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"continuation/weights\.safetensors: missing or altered"):
        read_manifest(package)


@pytest.mark.parametrize("uri", ["persistence", "cascade"])
def test_baselines_cannot_continue(uri):
    with pytest.raises(ContinuationError, match=f"{uri} forecasts and cannot continue songs"):
        load(uri).continue_song(piece())


def test_a_bundle_without_a_continuation_model_cannot_continue(tmp_path):
    randomised().save(tmp_path / "old", {})
    with pytest.raises(ContinuationError, match="lstm forecasts and cannot continue"):
        load(tmp_path / "old").continue_song(song(music(2000)))


def test_a_continuation_bundle_is_not_a_forecaster_and_vice_versa(bundle):
    with pytest.raises(BundleError, match="unknown kind of bundle 'continuation'"):
        load(bundle.parent / "continuation")
    with pytest.raises(BundleError, match="no continuation model"):
        ContinuationModel.load(bundle)


@pytest.fixture
def wav(tmp_path):
    path = tmp_path / "song.wav"
    write_song(piece(12000), path)
    return path


def generate(wav, bundle, *more):
    out = wav.with_name("out.wav")
    arguments = ["continue", str(wav), "-o", str(out), "--model", str(bundle), *more]
    return cli.main(arguments), out


def test_command_writes_the_song_followed_by_its_continuation(wav, bundle, model, capsys):
    code, out = generate(wav, bundle, "--seconds", "0.5", "--seed", "7")
    assert code == 0
    said = capsys.readouterr().out
    assert "x real time" in said
    result, prompt = read_song(out), read_song(wav)
    np.testing.assert_array_equal(result.samples[: prompt.frames], prompt.samples)
    more = model.continue_song(prompt, 0.5, seed=7).samples
    np.testing.assert_array_equal(result.samples[prompt.frames :], more)


def test_command_writes_only_the_continuation_and_json(wav, bundle, capsys):
    code, out = generate(wav, bundle, "--seconds", "0.5", "--only", "--json")
    assert code == 0
    said = json.loads(capsys.readouterr().out)
    assert said["frames"] == read_song(out).frames == 4000
    assert said["seconds"] == 0.5
    assert said["real_time_factor"] > 0


def test_the_memory_of_the_command_does_not_grow_with_the_song(tmp_path, bundle, monkeypatch):
    for module in ("continuation.prompt", "commands.predict"):
        monkeypatch.setattr(f"songcast.{module}.LONGEST_SECONDS", 2.0)

    def peak_bytes(seconds):
        write_song(piece(8000 * seconds), tmp_path / "song.wav")
        tracemalloc.start()
        try:
            assert generate(tmp_path / "song.wav", bundle, "--seconds", "0.5")[0] == 0
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak_bytes(4)  # what is loaded once
    assert peak_bytes(160) < peak_bytes(40) + 500_000  # the samples alone are 1.9 MB or more


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--seconds", "0"), "seconds is 0: must be above 0"),
        (("--seconds", "1e9"), "seconds is 1e+09"),
        (("--seconds", "1", "--temperature", "-1"), "temperature is -1"),
        (("--seconds", "1", "--seed", "-1"), "seed is -1"),
        (("--seconds", "1", "--model", "cascade"), "cascade forecasts and cannot continue songs"),
        (("--seconds", "1", "-o", "/nowhere/out.wav"), "/nowhere/out.wav: cannot be written"),
        (("--seconds", "1", "-o", "out.xyz"), "out.xyz: cannot write xyz"),
    ],
)
def test_invalid_arguments_exit_2_with_one_line_and_no_file(wav, bundle, more, said, capsys):
    code, out = generate(wav, bundle, *more)
    assert code == 2
    caught = capsys.readouterr()
    assert caught.out == ""
    assert caught.err.startswith("songcast continue: ")
    assert said in caught.err
    assert caught.err.count("\n") == 1
    assert not out.exists()


def test_the_input_file_is_never_overwritten(wav, bundle, capsys):
    before = wav.read_bytes()
    code = cli.main(
        ["continue", str(wav), "-o", str(wav), "--seconds", "1", "--model", str(bundle)]
    )
    assert code == 2
    assert "is the song itself" in capsys.readouterr().err
    assert wav.read_bytes() == before

"""Properties of recordings: each planted fault is found, and nothing in a song without faults."""

import subprocess

import imageio_ffmpeg
import numpy as np
import pytest

from helpers.inspected import inspect_song
from songcast.audio.songs import Song, write_song
from songcast.config import Params
from songcast.inspection.properties import PropertyMeter
from songcast.inspection.report import warnings_of

RATE = 44100
EXPECT = Params.load("params.yaml").prepare.expect


def music(seconds=6.0, channels=2, rate=RATE, seed=0):
    """Chords with noise up to half the rate, at -12 dB of full scale; float, in LSB."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * rate)) / rate
    chord = sum(np.sin(2 * np.pi * f * t + rng.uniform(0, 6)) for f in rng.uniform(100, 1500, 8))
    noise = rng.normal(0, 0.08, (len(t), channels))
    return 2200.0 * (chord[:, None] * rng.uniform(0.6, 1.0, channels) + noise)


def measured(x, rate=RATE, block=10_000):
    x = np.clip(np.rint(x), -32768, 32767).astype(np.int16)
    meter = PropertyMeter(rate, x.shape[1])
    for start in range(0, len(x), block):
        meter.add(x[start : start + block])
    return meter.result(), meter.events


def test_a_song_without_faults_has_its_plain_properties_in_blocks_of_any_size():
    x = music()
    found, dropouts = measured(x)
    assert (found["seconds"], found["channels"], found["sample_rate_hz"]) == (6.0, 2, RATE)
    assert found["peak_dbfs"] == pytest.approx(
        20 * np.log10(np.abs(np.rint(x)).max() / 32768), abs=0.01
    )
    assert found["bandwidth_hz"] > 21000 and found["low_pass_hz"] is None
    assert (found["effective_bits"], found["channel_relation"]) == (16.0, "stereo")
    assert found["clipped_share"] == found["silent_share"] == found["one_sided_seconds"] == 0
    assert dropouts == []
    for block in (1, 777, 1 << 20):
        short = x[:30_000] if block == 1 else x
        assert measured(short, block=block) == measured(short)


def test_clipping_is_counted_at_full_scale_and_below():
    for limit in (32767, 6000):
        x = np.clip(music() * 4, -limit, limit)
        at = np.abs(x) == limit
        runs = np.diff(np.flatnonzero(np.diff(np.pad(at, ((1, 1), (0, 0))).astype(int).T.ravel())))
        longer = runs[::2][runs[::2] >= 3].sum()
        found = measured(x)[0]["clipped_share"]
        assert found == pytest.approx(longer / x.size, rel=0.01) and found > 0.01


def test_silence_offset_one_sided_parts_and_relations_of_channels():
    x = music()
    x[RATE : 3 * RATE] = 0
    found = measured(x)[0]
    assert found["silent_share"] == pytest.approx(1 / 3, abs=0.04)
    x = music()
    x[2 * RATE : 4 * RATE, 1] = 0
    assert measured(x)[0]["one_sided_seconds"] == pytest.approx(2, abs=0.2)
    offset = measured(music() + np.array([655.36, 0]))[0]["dc_offset"]
    assert offset == pytest.approx([0.02, 0], abs=0.001)
    left = music(channels=1)
    for right, relation in ((left, "equal"), (-left, "inverted"), (0 * left, "one silent")):
        assert measured(np.hstack([left, right]))[0]["channel_relation"] == relation
    silence = measured(np.zeros((RATE, 2)))[0]
    assert (silence["peak_dbfs"], silence["silent_share"]) == (None, 1.0)


def test_bits_that_a_song_does_not_use():
    for bits in (6, 8, 12):
        step = 2 ** (16 - bits)
        for gain in (1.0, 0.7):
            x = np.rint(music(10.0) / step) * step * gain
            expected = bits - np.log2(gain)
            assert measured(x)[0]["effective_bits"] == pytest.approx(expected, abs=0.3)


def test_each_planted_dropout_is_found_and_rests_are_not():
    x = np.rint(music(20.0))
    rng = np.random.default_rng(1)
    planted = []
    for k, start in enumerate(np.arange(1, 19) * RATE + rng.integers(0, RATE // 2, 18)):
        frames, channel = int(rng.integers(100, 6000)), k % 3  # 2: both channels
        x[start : start + frames, [channel] if channel < 2 else [0, 1]] = 0
        planted += [(start, frames, c) for c in ([channel] if channel < 2 else [0, 1])]
    found = [
        (round(d["seconds"] * RATE), d["strength"] * RATE / 1000, d["channel"])
        for d in measured(x)[1]
    ]
    assert len(found) == len(planted)
    for (frame, frames, channel), (start, length, c) in zip(found, sorted(planted), strict=True):
        assert channel == c and abs(frame - start) <= 3 and abs(frames - length) <= 6
    fade = np.rint(music() * np.abs(np.linspace(-1, 1, 6 * RATE))[:, None])
    fade[int(2.9 * RATE) : int(3.1 * RATE)] = 0  # between a fade-out and a fade-in
    fade[np.abs(fade) < 200] = 0
    fade[: 2 * RATE], fade[-2 * RATE :] = 0, 0  # before and after the sound
    assert [d for d in measured(fade)[1] if d["strength"] > 4000] == []


def test_a_low_pass_of_a_codec_or_of_a_lower_rate_is_found(tmp_path):
    soxr = pytest.importorskip("soxr")
    x = music(10.0)
    for rate, edge in ((32000, 16000), (22050, 11025), (8000, 4000)):
        low = soxr.resample(soxr.resample(x, RATE, rate, quality="VHQ"), rate, RATE, quality="VHQ")
        found = measured(low)[0]["low_pass_hz"]
        assert 0.9 * edge < found < 1.02 * edge
    song = Song(samples=np.rint(x).astype(np.int16), sample_rate_hz=RATE, name="x")
    write_song(song, tmp_path / "a.wav")
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", tmp_path / "a.wav"]
    subprocess.run([*ffmpeg, "-b:a", "96k", tmp_path / "a.mp3"], check=True)
    found = inspect_song(tmp_path / "a.mp3")[0]
    assert 14000 < found["low_pass_hz"] < 17000  # LAME at 96 kbit/s: 15.1 kHz
    assert any("hardly any sound above" in line for line in warnings_of(found, EXPECT))


def test_loudness_is_that_of_the_standard(tmp_path):
    """EBU Tech 3341: a stereo sine of 1 kHz at -23 dBFS has -23 LUFS, in one channel -26."""
    for rate in (44100, 48000, 22050):
        t = np.arange(10 * rate) / rate
        sine = 10 ** (-23 / 20) * 32768 * np.sin(2 * np.pi * 1000 * t)
        for right, lufs in ((1, -23), (0, -26)):
            x = np.rint(np.stack([sine, right * sine], 1)).astype(np.int16)
            path = tmp_path / "sine.wav"
            write_song(Song(samples=x, sample_rate_hz=rate, name="sine"), path)
            assert inspect_song(path)[0]["loudness_lufs"] == pytest.approx(lufs, abs=0.15)


def test_a_song_as_expected_gives_no_warning_and_each_fault_gives_one():
    good = measured(music())[0] | {"loudness_lufs": -20.0, "damage": ""}
    assert warnings_of(good, EXPECT) == []
    for change, words in (
        ({"seconds": 0.5}, "0.5 s long (prepare.expect.min_seconds: 2)"),
        ({"loudness_lufs": -50.0}, "-50 LUFS"),
        ({"low_pass_hz": 16000}, "hardly any sound above 16000 Hz"),
        ({"effective_bits": 8.0}, "8 effective bits"),
        ({"clipped_share": 0.02}, "2.000% of the samples are clipped"),
        ({"silent_share": 0.9}, "90% of it is silent"),
        ({"dc_offset": [0.0, -0.05]}, "DC offset 5.00%"),
        ({"one_sided_seconds": 5.0}, "one channel silent for 5 s"),
        ({"dropouts": 3}, "3 dropouts"),
        ({"damage": "the decoder reported: x"}, "the decoder reported: x"),
        ({"channel_relation": "inverted"}, "inverted"),
    ):
        (line,) = warnings_of(good | change, EXPECT)
        assert words in line


def test_odd_sample_rates_are_measured(tmp_path):
    noise = np.random.default_rng(0).normal(0, 3000, (5000, 2)).astype(np.int16)
    for rate in (1, 10, 3999, 768000, 2**31 - 1):
        write_song(Song(samples=noise, sample_rate_hz=rate, name="x"), tmp_path / "x.wav")
        found = inspect_song(tmp_path / "x.wav")[0]
        assert (found["sample_rate_hz"], found["seconds"]) == (rate, round(5000 / rate, 3))
        assert found["bandwidth_hz"] is None or found["bandwidth_hz"] <= rate / 2 + 1

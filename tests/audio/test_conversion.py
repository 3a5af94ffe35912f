"""Sample types, channel counts and sample rates. Oracle: scipy, and arithmetic by hand."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import resample_poly

from songcast.audio.conversion import remixed, resampled, to_int16

FULL = np.iinfo(np.int16)


def whole(samples, from_hz, to_hz):
    return np.concatenate(list(resampled([samples], from_hz, to_hz, samples.shape[1])))


def test_all_sample_types_are_rounded_to_the_nearest_level_and_clipped():
    deep = np.random.default_rng(0).integers(-(2**31), 2**31, 999).astype(np.int32)
    expected = np.minimum(np.floor(deep / 2**16 + 0.5), FULL.max)
    np.testing.assert_array_equal(to_int16(deep), expected)
    np.testing.assert_array_equal(to_int16(np.array([0, 128, 255], np.uint8)), [-32768, 0, 32512])
    floats = np.array([1.0, -1.0, 0.5, 2**-16, 1.5, -7.0])
    np.testing.assert_array_equal(to_int16(floats), [FULL.max, FULL.min, 16384, 0, 32767, -32768])


def test_mono_and_stereo_are_converted_into_each_other_as_ffmpeg_does(make_song):
    stereo = make_song(1000).samples
    np.testing.assert_array_equal(remixed(stereo, 2), stereo)
    mono = remixed(stereo, 1)
    np.testing.assert_array_equal(mono[:, 0], np.rint(stereo.sum(axis=1) / 2))
    again = remixed(mono, 2)
    np.testing.assert_array_equal(again[:, 0], np.rint(mono[:, 0] * np.sqrt(0.5)))
    np.testing.assert_array_equal(again[:, 0], again[:, 1])


@given(lengths=st.lists(st.integers(0, 400), min_size=1, max_size=12), to=st.integers(0, 3))
@settings(max_examples=40)
def test_resampling_in_a_stream_equals_resampling_the_whole(make_song, lengths, to):
    to_hz = (44100, 22050, 48000, 8000)[to]
    samples = make_song(sum(lengths)).samples
    blocks = np.split(samples, np.cumsum(lengths)[:-1])
    streamed = np.concatenate(list(resampled(blocks, 44100, to_hz, 2)))
    np.testing.assert_array_equal(streamed, whole(samples, 44100, to_hz))
    assert abs(len(streamed) - len(samples) * to_hz / 44100) <= 0.5


def test_a_tone_keeps_its_pitch_level_and_phase():
    for from_hz, to_hz in [(48000, 44100), (44100, 96000), (96000, 44100)]:

        def tone(rate):
            return 20000 * np.sin(2 * np.pi * 1000 * np.arange(rate) / rate + 0.3)

        result = whole(np.rint(tone(from_hz)).astype(np.int16)[:, None], from_hz, to_hz)[:, 0]
        middle = slice(to_hz // 10, -to_hz // 10)
        assert len(result) == to_hz
        assert np.abs(result - tone(to_hz))[middle].max() < 2  # LSB


def test_a_tone_above_nyquist_vanishes():
    samples = 30000 * np.sin(2 * np.pi * 30000 * np.arange(96000) / 96000)
    result = whole(np.rint(samples).astype(np.int16)[:, None], 96000, 44100)[4410:-4410]
    residue = np.sqrt(np.mean(result.astype(float) ** 2))
    assert 20 * np.log10(max(residue, 1e-9) / (30000 / np.sqrt(2))) < -90


def test_resampling_agrees_with_scipy_on_music(make_song):
    x = make_song(20000, 1, 48000).samples
    smooth = np.rint(resample_poly(x, 1, 8, axis=0)).astype(np.int16)  # band-limited
    wide = whole(smooth, 6000, 12000)[:, 0]
    reference = resample_poly(smooth.astype(float), 2, 1, axis=0, window=("kaiser", 12.0))[:, 0]
    inner = slice(200, -200)
    assert np.std((wide - reference)[inner]) < 0.02 * np.std(reference[inner])


def test_resampling_clips_and_does_not_wrap_and_equal_rates_pass_bit_for_bit(chord):
    square = np.where(np.arange(4800) // 50 % 2, FULL.max, FULL.min).astype(np.int16)
    result = whole(square[:, None], 48000, 44100)[:, 0]
    expected = square[(np.arange(len(result)) * 48000 / 44100).astype(int)]
    assert np.mean(np.sign(result) == np.sign(expected)) > 0.98
    np.testing.assert_array_equal(whole(chord.samples, 44100, 44100), chord.samples)

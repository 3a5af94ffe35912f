"""Rendering: perfect reconstruction, joins, the limiter; and the residual design of the levels."""

import numpy as np

from helpers.small_continuation import continuation_model, level_arrays
from helpers.small_models import music
from songcast.continuation.level_model import (
    SMOOTH,
    LevelNetwork,
    Present,
    blended,
    model_inputs,
)
from songcast.continuation.levels import BANDS, band_levels
from songcast.continuation.prompt import Prompt, burg, extrapolated
from songcast.continuation.rendering import PEAK, PER_HOP, Limiter, Path, Shaper, cross_faded
from songcast.evaluation import spectral

RATE_HZ, HOP = 44100, 512


def noise(frames, channels=2, seed=0):
    return np.random.default_rng(seed).normal(0, 3000, (frames, channels))


def shaped(signal, gains_db, block=4):
    """Shape all hops but two at each end; ``gains_db``: (hops, bands)."""
    gains_db = np.repeat(gains_db, PER_HOP, axis=0)
    shaper = Shaper(signal[: 4 * HOP], gains_db[: 2 * PER_HOP], RATE_HZ)
    last, parts = len(signal) // HOP - 2, []
    for start in range(2, last, block):
        stop = min(start + block, last)
        part = signal[start * HOP : (stop + 2) * HOP]
        parts.append(shaper.shape(part, gains_db[start * PER_HOP : stop * PER_HOP]))
    return np.concatenate(parts)


def test_zero_gain_returns_the_signal():
    signal = noise(20 * HOP)
    result = shaped(signal, np.zeros((20, BANDS), np.float32))
    np.testing.assert_allclose(result, signal[2 * HOP : -2 * HOP], atol=1e-6)


def test_a_constant_gain_changes_the_level_and_keeps_the_stereo_image():
    signal = noise(20 * HOP)
    result = shaped(signal, np.full((20, BANDS), -6.0, np.float32))
    np.testing.assert_allclose(result, 10 ** (-0.3) * signal[2 * HOP : -2 * HOP], atol=0.01)


def test_shaping_does_not_depend_on_the_blocks():
    signal, gains = noise(21 * HOP), np.random.default_rng(1).normal(0, 6, (21, BANDS))
    gains = gains.astype(np.float32)
    np.testing.assert_allclose(shaped(signal, gains, 2), shaped(signal, gains, 6), atol=0.05)


def test_the_limiter_bounds_every_sample_and_leaves_quiet_signals():
    loud = noise(16 * HOP) * np.repeat(np.random.default_rng(2).uniform(0, 40, 16), HOP)[:, None]
    for signal, same in ((loud, False), (noise(16 * HOP), True)):
        limiter = Limiter(HOP, 2)
        parts = [limiter.limit(signal[i : i + 4 * HOP]) for i in range(0, 12 * HOP, 4 * HOP)]
        result = np.concatenate([*parts, limiter.limit(signal[12 * HOP :], last=True)])
        assert result.shape == signal.shape
        assert np.abs(result).max() <= PEAK + 1e-6
        assert np.array_equal(result, signal) == same


def test_a_cross_fade_of_equal_signals_is_the_signal_and_of_different_ones_keeps_the_level():
    a, b = noise(8192, seed=1), noise(8192, seed=2)
    np.testing.assert_allclose(cross_faded(a, a), a, rtol=1e-9)
    middle = cross_faded(a, b)[3000:5000]
    assert 0.9 < np.std(middle) / 3000 < 1.1


def test_burg_continues_a_sine():
    t = np.arange(4000)
    sine = np.sin(0.1 * t)
    assert len(burg(sine, 8)) == 8
    np.testing.assert_allclose(extrapolated(sine[:3000], 16, 200), sine[3000:3200], atol=0.05)


def test_a_path_moves_through_the_song_and_joins_passages():
    prompt = Prompt(music(20 * 8000, 2, 0), 8000)
    path = Path(prompt, 3, 1.0, np.random.default_rng(0))
    blocks = [path.block() for _ in range(200)]
    assert all(np.std(block) > 100 for block in blocks)
    assert len(path.joins) > 2


def test_levels_are_those_of_the_measure():
    signal = noise(30 * HOP, 1)[:, 0]
    expected = spectral.log_mel_db(signal / 32768.0, RATE_HZ)
    np.testing.assert_allclose(band_levels(signal, RATE_HZ), expected, atol=0.05)


def test_with_zero_output_the_model_is_the_blend_and_gain_passes_through():
    arrays = level_arrays()
    arrays["out_kernel"] *= 0
    arrays["out_bias"] *= 0
    network = LevelNetwork(arrays)
    rng = np.random.default_rng(3)
    past = rng.normal(-40, 5, (100, BANDS)).astype(np.float32)
    before, after = past + rng.normal(0, 3, (3, 100, BANDS)), rng.normal(-40, 5, (3, 48, BANDS))
    distances = np.array([2.0, 3.0, 4.0], np.float32)

    def predicted(gain_db):
        present = Present.of(past + gain_db, before.astype(np.float32) + gain_db, distances, 86.0)
        passages = after.astype(np.float32) + gain_db
        levels = network.predict(present, passages, 0, 86.0, network.new_state(BANDS))
        return present, passages, levels

    present, passages, levels = predicted(0.0)
    _, sources = model_inputs(present, passages, 0, 86.0)
    expected = present.reference + blended(arrays["blend"], sources, 0, 86.0, 2.0)
    np.testing.assert_allclose(levels, expected, atol=1e-4)
    assert len(levels) == 48 - 2 * SMOOTH
    np.testing.assert_allclose(predicted(6.0)[2], levels + 6.0, atol=1e-3)


def test_the_mean_of_passages_follows_in_each_band_the_passage_that_matched_there():
    rng = np.random.default_rng(4)
    past = rng.normal(-40, 5, (100, BANDS)).astype(np.float32)
    before = np.stack([past, past])
    low, high = slice(0, 28), slice(36, BANDS)
    before[0, :, high] += 20
    before[1, :, low] += 20
    after = rng.normal(-40, 5, (2, 16 + 2 * SMOOTH, BANDS)).astype(np.float32)
    present = Present.of(past, before, np.array([2.0, 2.0], np.float32), 86.0)
    for softness_db, expected in (
        (0.1, [(low, after[0]), (high, after[1])]),
        (np.inf, [(slice(None), after.mean(axis=0))]),
    ):
        _, sources = model_inputs(present, after, 0, 86.0, (softness_db, np.inf))
        mean = sources[:, :, 2] + sources[:, :, 3] + present.reference
        for bands, levels in expected:
            np.testing.assert_allclose(mean[:, bands], levels[SMOOTH:-SMOOTH, bands], atol=0.01)


def test_rendered_levels_are_near_the_predicted_ones():
    prompt = Prompt(noise(4 * RATE_HZ, 1).astype(np.int16), RATE_HZ)
    constant = continuation_model().baselines()["constant"].generate(prompt, RATE_HZ, 0.0, 0)
    predicted = band_levels(prompt.between(RATE_HZ, 4 * RATE_HZ)[:, 0], RATE_HZ).mean(axis=0)
    rendered = spectral.log_mel_db(spectral.mono(constant), RATE_HZ)[4:]
    pasted = spectral.log_mel_db(spectral.mono(prompt.samples[:RATE_HZ]), RATE_HZ)
    error, before = (np.abs(levels - predicted).mean() for levels in (rendered, pasted))
    assert error < 0.4 * before


def test_a_repeated_passage_is_counted():
    path = Path(Prompt(music(20 * 8000, 2, 0), 8000), 3, 0.0, np.random.default_rng(0))
    path.block()
    assert path.repeated_share() == 0
    for _ in range(2000):
        path.block()
    assert 0.5 < path.repeated_share() < 1


def test_passages_end_where_the_song_fades_out():
    song = music(40 * 8000, 2, 0)
    assert Prompt(song, 8000).last == len(song)
    song[-3 * 8000 :] = song[-3 * 8000 :] // 100
    prompt = Prompt(song, 8000)
    assert abs(prompt.last - (len(song) - 3 * 8000)) <= 0.1 * 8000
    path = Path(prompt, 3, 0.0, np.random.default_rng(0))
    levels = [np.std(path.block()) for _ in range(400)]
    assert len(path.joins) > 2
    assert min(levels) > 0.1 * np.std(song[: prompt.last])


def test_temperature_keeps_the_rhythm_of_the_passage():
    beats = np.repeat(np.where(np.arange(80) % 4 == 0, 1.0, 0.05), RATE_HZ // 8)[:, None]
    song = (noise(len(beats), 1) * beats).astype(np.int16)
    # Cut off the beat: half of the passages differ in rhythm, so that probable levels are smooth.
    prompt = Prompt(np.concatenate([song, noise(RATE_HZ // 2, 1).astype(np.int16)]), RATE_HZ)
    model = continuation_model()

    def swing_db(temperature):
        track = model.generate(prompt, 4 * RATE_HZ, temperature, 0)
        levels = band_levels(track[:, 0].astype(float), RATE_HZ).mean(axis=1)
        return float(np.std(levels))

    assert swing_db(1.0) > 1.1 * swing_db(0.0)

"""The match model predicts errors that repeat, from the past alone, at any block size."""

import numpy as np
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from songcast.forecasting import match_model
from songcast.forecasting.match_model import MatchModel

F32 = NDArray[np.float32]
BORDER = match_model.SEARCH_EVERY


def noise(frames: int, channels: int = 2, seed: int = 0) -> F32:
    return np.random.default_rng(seed).normal(0, 1, (channels, frames)).astype(np.float32)


def repeated(frames: int, period: int, channels: int = 2) -> F32:
    """Noise that repeats, and a little new noise."""
    loop = np.resize(noise(period, channels).T, (frames, channels)).T
    return np.clip(loop + 0.1 * noise(frames, channels, seed=1), -3, 3).astype(np.float32)


def power_left(errors: F32, moves: F32, start: int) -> float:
    return float(np.mean((errors - moves)[:, start:] ** 2) / np.mean(errors[:, start:] ** 2))


def test_repeated_noise_is_predicted():
    for channels in (1, 2):
        errors = repeated(40000, 11025, channels)
        model = MatchModel(channels)
        moves, ratios = model.predict(errors)
        assert model.lags[0] in (11025, 22050)
        assert power_left(errors, moves, 11025 + 2 * BORDER) < 0.15
        assert np.all(ratios[:, -1] < 0.5)
        assert np.all(np.abs(moves) <= 2.0)
        assert not moves[:, :BORDER].any()


def test_other_lags_gain_nothing(monkeypatch):
    errors = repeated(40000, 11025)
    rng = np.random.default_rng(2)
    monkeypatch.setattr(
        match_model._Past, "search", lambda past: rng.integers(1024, 9000, match_model.PLACES)
    )
    moves, _ = MatchModel(2).predict(errors)
    assert power_left(errors, moves, 20000) > 0.99


def test_a_place_is_found_in_every_part_of_the_past():
    for lag in (2500, 9000, 31000):  # in the newest, unfinished chunk, between chunks, in old ones
        errors = noise(20 * BORDER)
        errors[:, -match_model.QUERY :] = errors[:, -match_model.QUERY - lag : -lag]
        past = match_model._Past(2)
        past.append(errors)
        assert past.search()[0] == lag


def test_the_result_does_not_depend_on_the_size_of_the_blocks():
    for channels in (1, 2):
        errors = repeated(2 * match_model.FFT_SIZE + 5000, 5000, channels)
        whole = MatchModel(channels).predict(errors)
        for cuts in ([1, 2, 2047, 2048, 2049, 9999], range(700, errors.shape[1], 700)):
            model = MatchModel(channels)
            parts = [model.predict(part) for part in np.split(errors, cuts, axis=1)]
            for k in range(2):
                assert_array_equal(np.concatenate([p[k] for p in parts], axis=1), whole[k])


def test_a_prediction_depends_on_the_past_only():
    errors = repeated(16000, 5000)
    moves, ratios = MatchModel(2).predict(errors)
    for cut in (BORDER, 9000, 6 * BORDER + 1):
        other = errors.copy()
        other[:, cut:] = noise(errors.shape[1] - cut, seed=3)
        moved, scaled = MatchModel(2).predict(other)
        assert_array_equal(moved[:, : cut + 1], moves[:, : cut + 1])
        assert_array_equal(scaled[:, : cut + 1], ratios[:, : cut + 1])


def test_old_errors_are_dropped(monkeypatch):
    monkeypatch.setattr(match_model, "MAX_CHUNKS", 4)
    errors = repeated(14 * match_model.HOP, 11025)
    model = MatchModel(2)
    for block in np.split(errors, 14, axis=1):
        moves, _ = model.predict(block)
    assert power_left(block, moves, 0) < 0.05
    assert model.lags.max() < 6 * match_model.HOP
    assert model._past.errors.shape[1] <= 8 * match_model.FFT_SIZE


def test_hostile_errors_give_finite_predictions():
    frames = 3 * BORDER
    square = np.where(np.arange(frames) // 50 % 2, 3.0, -3.0)
    for values in (np.zeros(frames), np.full(frames, 3.0), square, 1e-30 * square, square[:1]):
        errors = np.stack([values, -values]).astype(np.float32)
        model = MatchModel(2)
        for block in (errors, errors[:, :0], errors):
            moves, ratios = model.predict(block)
            assert moves.shape == ratios.shape == block.shape
            assert np.all(np.isfinite(moves)) and np.all(np.abs(moves) <= 2.0)
            assert np.all((ratios >= 0.05) & (ratios <= 1.2))

"""Filter bank and stacking: causal, stable, and equal to independent formulas."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from songcast.audio.songs import Song
from songcast.errors import ParamsError
from songcast.forecasting.baselines import Cascade
from songcast.forecasting.filter_bank import FilterBank, StageFilters
from songcast.forecasting.filter_bank_settings import FilterBankSettings, LeastSquares, Lms
from songcast.forecasting.linear_kernels import accumulate, solve_ridged
from songcast.forecasting.stacking import EncodedBlock, Stacking

Samples = NDArray[np.int16]
RATE_HZ = 44100
SMALL = FilterBankSettings(
    chains=(
        (
            LeastSquares(own_taps=8, other_taps=4, forgetting=0.998),
            Lms(taps=64, step=0.1),
            LeastSquares(own_taps=4, other_taps=4, forgetting=0.99, solve_every=8),
        ),
        (Lms(taps=16, step=0.05),),
    )
)


def music(frames: int, channels: int, seed: int = 0) -> Samples:
    """A few decaying partials, correlated channels and noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(frames)[:, None] / RATE_HZ
    x = np.zeros((frames, channels))
    for _ in range(6):
        hz, pan = rng.uniform(80, 4000), rng.uniform(0.3, 1.0, channels)
        x += 3000 * pan * np.sin(2 * np.pi * hz * t + rng.uniform(0, 6)) * np.exp(-3 * t)
    x += np.cumsum(rng.normal(0, 20, (frames, channels)), axis=0) * 0.2
    return np.clip(np.round(x + rng.normal(0, 10, x.shape)), -32768, 32767).astype(np.int16)


def song(samples: Samples) -> Song:
    return Song(samples=samples, sample_rate_hz=RATE_HZ, name="test")


def encode(samples: Samples, bounds: list[int] | None = None) -> tuple[NDArray, EncodedBlock]:
    """Means and encoded blocks of ``samples``, processed in pieces cut at ``bounds``."""
    bank = FilterBank(samples.shape[1], SMALL)
    stacking = Stacking(samples.shape[1], len(bank.names))
    means, blocks = [], []
    for piece in np.split(samples, bounds or []):
        means.append(bank.predict(piece))
        blocks.append(stacking.combine(piece, means[-1]))
    joined = {
        name: np.concatenate([getattr(block, name) for block in blocks], axis=axis_of(name))
        for name in EncodedBlock.__dataclass_fields__
    }
    return np.concatenate(means), EncodedBlock(**joined)


def axis_of(name: str) -> int:
    """The axis of the frames in a field of an encoded block."""
    return 0 if name in ("samples", "means") else 1


def assert_same(a: EncodedBlock, b: EncodedBlock, frames: int) -> None:
    for name in EncodedBlock.__dataclass_fields__:
        one, other = (np.moveaxis(getattr(x, name), axis_of(name), 0)[:frames] for x in (a, b))
        np.testing.assert_array_equal(one, other, err_msg=name)


def test_the_future_does_not_change_the_past() -> None:
    for channels in [1, 2]:
        x = music(6000, channels)
        changed = x.copy()
        changed[5000:] = -changed[5000:] // 2
        means, encoded = encode(x)
        other_means, other = encode(changed)
        # The forecast of frame 5000 does not use it, but channel 1 uses channel 0's sample.
        np.testing.assert_array_equal(means[:5000], other_means[:5000])
        np.testing.assert_array_equal(means[5000, 0], other_means[5000, 0])
        assert_same(encoded, other, 5000)
        assert not np.array_equal(means[5001:], other_means[5001:])


def test_the_second_channel_uses_only_the_current_sample_of_the_first() -> None:
    x = music(4000, 2)
    changed = x.copy()
    changed[3000, 1] += 100
    means, other = encode(x)[0], encode(changed)[0]
    np.testing.assert_array_equal(means[3000], other[3000])
    changed = x.copy()
    changed[3000, 0] += 100
    other = encode(changed)[0]
    np.testing.assert_array_equal(means[3000, 0], other[3000, 0])
    assert not np.array_equal(means[3000, 1], other[3000, 1])


def test_the_result_does_not_depend_on_the_block_size() -> None:
    for channels in [1, 2]:
        for bounds in [[1, 2, 9, 500], [4096], [4097, 5000], [17]]:
            x = music(6000, channels)
            means, encoded = encode(x)
            pieces_means, pieces = encode(x, bounds)
            np.testing.assert_array_equal(means, pieces_means)
            assert_same(encoded, pieces, len(x))


def test_the_default_bank_depends_neither_on_block_size_nor_on_threads() -> None:
    x = music(9000, 2)
    whole = FilterBank(2, threads=1).predict(x)
    bank = FilterBank(2, threads=3)
    pieces = np.concatenate([bank.predict(piece) for piece in np.split(x, [5, 4100, 8000])])
    np.testing.assert_array_equal(whole, pieces)
    assert whole.shape == (9000, 2, len(bank.names)) and whole.dtype == np.float32


def test_least_squares_agree_with_an_independent_solver() -> None:
    own, other, forgetting, ridge, every = 4, 3, 0.99, 1.0, 8
    x = music(640, 2)
    stage = LeastSquares(
        own_taps=own, other_taps=other, forgetting=forgetting, ridge=ridge, solve_every=every
    )
    means = FilterBank(2, FilterBankSettings(chains=((stage,),))).predict(x)[..., 0]
    padded = np.concatenate([np.zeros((own, 2)), x.astype(float)])
    for channel in (0, 1):
        rows = np.array(
            [
                np.concatenate(
                    [
                        padded[t : t + own, channel],
                        padded[t + own - other + channel : t + own + channel, 1 - channel],
                    ]
                )
                for t in range(len(x))
            ]
        )
        for t in (400, 512, 639):
            known = t // every * every
            decay = np.sqrt(forgetting ** np.arange(known - 1, -1, -1.0))
            design = np.vstack(
                [rows[:known] * decay[:, None], np.sqrt(ridge) * np.eye(own + other)]
            )
            target = np.concatenate([x[:known, channel] * decay, np.zeros(own + other)])
            w = np.linalg.lstsq(design, target, rcond=None)[0]
            assert means[t, channel] == pytest.approx(rows[t] @ w, abs=0.02)


def test_sweeps_with_edges_equal_plain_gauss_seidel_on_the_summed_covariance() -> None:
    forgetting, ridge, every, sweeps, x = 0.99, 2.0, 8, 2, music(203, 2)
    for own, other in [(5, 3), (12, 9), (4, 12), (1, 1)]:
        stage = LeastSquares(
            own_taps=own,
            other_taps=other,
            forgetting=forgetting,
            ridge=ridge,
            solve_every=every,
            sweeps=sweeps,
        )
        means = StageFilters(stage, 2).predict(np.ascontiguousarray(x.T, np.float32))
        padded = np.concatenate([np.zeros((12, 2)), x.astype(float)])
        # From the newest regressor to the oldest, this channel's before the other's of its age.
        order = sorted(
            range(own + other),
            key=lambda i: (own - 1 - i, 0) if i < own else (own + other - 1 - i, 1),
        )
        for channel in (0, 1):
            r, c, w = np.zeros((own + other,) * 2), np.zeros(own + other), np.zeros(own + other)
            peak = 0.0
            for t, value in enumerate(x[:, channel].astype(float)):
                now = 12 + t
                u = np.concatenate(
                    [
                        padded[now - own : now, channel],
                        padded[now + channel - other : now + channel, 1 - channel],
                    ]
                )
                expected = np.clip(w @ u, -2 * peak, 2 * peak)
                assert means[channel, t] == pytest.approx(expected, rel=1e-5, abs=1e-3)
                peak = max(abs(value), 0.99 * peak)
                r, c = forgetting * r + np.outer(u, u), forgetting * c + value * u
                if (t + 1) % every == 0:
                    for i in order * sweeps:
                        w[i] += (c[i] - r[i] @ w - ridge * w[i]) / (r[i, i] + ridge)


def test_sweeps_converge_to_the_exact_solution() -> None:
    x = music(3000, 2)
    exact, swept = (
        FilterBank(
            2,
            FilterBankSettings(
                chains=(
                    (
                        LeastSquares(
                            own_taps=2, other_taps=2, forgetting=0.998, solve_every=8, sweeps=sweeps
                        ),
                    ),
                )
            ),
        ).predict(x)
        for sweeps in (0, 100)
    )
    scale = np.abs(x[2000:]).mean()
    assert np.abs(exact[2000:] - swept[2000:]).mean() < 0.01 * scale


def test_chains_with_a_common_first_stage_equal_separate_chains() -> None:
    x = music(5000, 2)
    first = LeastSquares(own_taps=8, other_taps=4, forgetting=0.998)
    chains = ((first, Lms(taps=32, step=0.1)), (first, Lms(taps=16, step=0.01)), (first,))
    together = FilterBank(2, FilterBankSettings(chains=chains)).predict(x)
    alone = [FilterBank(2, FilterBankSettings(chains=(chain,))).predict(x) for chain in chains]
    np.testing.assert_array_equal(together, np.concatenate(alone, axis=-1))


def test_weighted_least_squares_agree_with_an_independent_solver() -> None:
    taps, forgetting, ridge, every = 5, 0.99, 1.0, 8
    x = music(640, 1)
    x[300:420] *= 4
    stage = LeastSquares(
        own_taps=taps, other_taps=1, forgetting=forgetting, solve_every=every, weighted=True
    )
    means = FilterBank(1, FilterBankSettings(chains=((stage,),))).predict(x)[:, 0, 0]
    target = x[:, 0].astype(float)
    padded = np.concatenate([np.zeros(taps), target])
    rows = np.array([padded[t : t + taps] for t in range(len(x))])
    variance = np.zeros(len(x) + 1)
    for t, error in enumerate(target - means):
        variance[t + 1] = variance[t] + max(0.01, 1 / (t + 2)) * (error**2 - variance[t])
    for t in (320, 400, 512, 639):
        known = t // every * every
        weights = forgetting ** np.arange(known - 1, -1, -1.0) / (variance[:known] + 0.1)
        root = np.sqrt(weights)
        design = np.vstack([rows[:known] * root[:, None], np.sqrt(ridge) * np.eye(taps)])
        w = np.linalg.lstsq(
            design, np.concatenate([target[:known] * root, np.zeros(taps)]), rcond=None
        )[0]
        assert means[t] == pytest.approx(rows[t] @ w, abs=0.02, rel=1e-5)


def test_the_wide_bank_begins_with_the_cascade_and_does_not_depend_on_the_block_size() -> None:
    narrow, wide = FilterBankSettings(), FilterBankSettings.wide()
    assert wide.names[: len(narrow.names)] == narrow.names
    assert len(set(wide.names)) == len(wide.names)
    assert FilterBankSettings.from_json(wide.to_json()) == wide
    x = music(5000, 2)
    whole = FilterBank(2, wide, threads=1).predict(x)
    np.testing.assert_array_equal(whole[..., : len(narrow.names)], FilterBank(2).predict(x))
    bank = FilterBank(2, wide, threads=4)
    pieces = np.concatenate([bank.predict(piece) for piece in np.split(x, [5, 4100])])
    np.testing.assert_array_equal(whole, pieces)


def test_lms_in_blocks_agrees_with_its_textbook_form() -> None:
    step, x = 0.3, music(1500, 1)
    for taps in (8, 32):
        means = FilterBank(1, FilterBankSettings(chains=((Lms(taps=taps, step=step),),))).predict(x)
        padded = np.concatenate([np.zeros(taps), x[:, 0].astype(float)])
        w = np.zeros(taps)
        for t in range(len(x)):
            history = padded[t : t + taps]
            expected = np.clip(w @ history, -32768, 32767)
            assert means[t, 0, 0] == pytest.approx(expected, abs=0.05)
            w += step * (padded[t + taps] - w @ history) * history / (history @ history + taps + 1)


def test_ridge_systems_agree_with_lapack_and_singular_ones_are_refused() -> None:
    rng = np.random.default_rng(1)
    for n in (4, 12, 24):
        rows = rng.normal(size=(40, n))
        a, b = rows.T @ rows, rng.normal(size=n)
        w, lower = b.copy(), np.where(np.tri(n) > 0, a, 7.0)
        assert solve_ridged(lower, 0.5, np.zeros(n), w)
        np.testing.assert_allclose(w, np.linalg.solve(a + 0.5 * np.eye(n), b), rtol=1e-9)
        assert not solve_ridged(-np.ones((n, n)), 0.5, np.zeros(n), np.ones(n))


def test_the_accumulated_covariance_equals_the_weighted_sum() -> None:
    rng = np.random.default_rng(2)
    n, forgetting = 12, 0.99
    regressors, targets = rng.normal(size=(32, n)), rng.normal(size=32)
    covariance, correlation = np.zeros((n, n)), np.zeros(n)
    for block in range(0, 32, 8):
        rows = np.zeros((9, n))
        rows[:8], rows[8, :8] = regressors[block : block + 8], targets[block : block + 8]
        accumulate(covariance, correlation, rows, forgetting)
    weights = forgetting ** np.arange(31, -1, -1.0)
    expected = (regressors.T * weights) @ regressors
    np.testing.assert_allclose(np.tril(covariance), np.tril(expected), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(correlation, (regressors.T * weights) @ targets, atol=1e-12)


def test_stacking_is_no_worse_than_its_best_expert() -> None:
    x = music(30000, 2)
    means, encoded = encode(x)
    late = slice(5000, None)
    single = np.abs(means[late] - x[late, :, None]).mean(axis=(0, 1))
    stacked = np.abs(encoded.mean.T[late] - x[late]).mean()
    assert stacked <= single.min() * 1.005
    assert encoded.expert_error.shape == (2, 30000, 4)


def test_an_onset_does_not_make_the_prediction_explode() -> None:
    x = np.concatenate([music(5000, 2) // 200, music(3000, 2, seed=1)])
    mean = Cascade(SMALL).forecast(song(x)).mean
    assert np.abs(mean).max() < 2.5 * np.abs(x.astype(float)).max()


def test_the_second_of_identical_channels_costs_almost_nothing() -> None:
    mono = music(40000, 1)
    f = Cascade(SMALL).forecast(song(np.repeat(mono, 2, axis=1)))
    assert f.bits[:, 1].mean() < 0.2
    assert f.bits[2000:, 1].mean() < 0.05


def test_settings_survive_json() -> None:
    assert FilterBankSettings.from_json(SMALL.to_json()) == SMALL
    assert SMALL.to_json() != FilterBankSettings().to_json()
    assert len({SMALL, FilterBankSettings()}) == 2
    assert len(set(FilterBankSettings().names)) == len(FilterBankSettings().names)


def test_invalid_settings_are_errors() -> None:
    for make in [
        lambda: LeastSquares(own_taps=0, other_taps=1, forgetting=0.9),
        lambda: LeastSquares(own_taps=1, other_taps=1, forgetting=1.0),
        lambda: LeastSquares(own_taps=1, other_taps=1, forgetting=0.9, solve_every=12),
        lambda: LeastSquares(own_taps=1, other_taps=1, forgetting=0.9, ridge=0.0),
        lambda: LeastSquares(own_taps=1, other_taps=1, forgetting=0.9, weighted=True, sweeps=1),
        lambda: Lms(taps=0, step=0.1),
        lambda: Lms(taps=12, step=0.5),
        lambda: Lms(taps=8, step=1.5),
        lambda: FilterBankSettings(chains=()),
        lambda: FilterBankSettings.from_json([[{"kind": "Fourier"}]]),
    ]:
        with pytest.raises(ParamsError, match="filter bank"):
            make()


def passage(kind: str, frames: int, seed: int) -> Samples:
    """One hostile passage, (frames, 2) int16."""
    rng = np.random.default_rng(seed)
    t = np.arange(frames)
    mono: dict[str, NDArray] = {
        "silence": np.zeros(frames),
        "dc": np.full(frames, int(rng.integers(-32768, 32768))),
        "square": np.where(t // int(rng.integers(1, 200)) % 2, 32767, -32768),
        "noise": rng.integers(-32768, 32768, frames),
        "faint": rng.integers(-1, 2, frames),
        "impulses": np.where(rng.random(frames) < 0.002, -32768, 0),
        "sine": np.round(32767 * np.sin(t * rng.uniform(0.001, 3.1))),
        "ramp": (t * int(rng.integers(1, 5000)) + 32768) % 65536 - 32768,
    }
    first = mono[kind]
    second = {
        0: first,
        1: np.clip(-first, -32768, 32767),
        2: np.zeros(frames),
        3: rng.integers(-32768, 32768, frames),
    }[int(rng.integers(4))]
    return np.stack([first, second], axis=1).astype(np.int16)


KINDS = ["silence", "dc", "square", "noise", "faint", "impulses", "sine", "ramp"]


def assert_valid(forecaster: Cascade, samples: Samples) -> None:
    """The forecast is finite, in range, and codes every sample."""
    f = forecaster.forecast(song(samples))
    assert np.all(np.isfinite(f.mean)) and np.all(np.abs(f.mean) <= 32768 + 1e-6)
    assert np.all(np.isfinite(f.bits)) and np.all(f.bits >= 0)
    mixture = forecaster.session(samples.shape[1]).forecast_block(samples[:5000])
    assert np.all(mixture.weights > 0) and np.all(np.isfinite(mixture.scales))
    np.testing.assert_allclose(mixture.weights.sum(axis=-1), 1.0, atol=1e-12)


@settings(max_examples=25)
@given(
    parts=st.lists(
        st.tuples(st.sampled_from(KINDS), st.integers(1, 1500), st.integers(0, 99)),
        min_size=1,
        max_size=4,
    ),
    channels=st.sampled_from([1, 2]),
)
def test_hostile_songs_stay_finite(parts: list[tuple[str, int, int]], channels: int) -> None:
    samples = np.concatenate([passage(*part) for part in parts])[:, :channels]
    assert_valid(Cascade(SMALL), np.ascontiguousarray(samples))


def test_the_shortest_songs_are_forecast() -> None:
    for frames in [0, 1, 2]:
        for channels in [1, 2]:
            assert_valid(Cascade(), np.full((frames, channels), -32768, np.int16))


def test_the_wide_bank_stays_finite() -> None:
    for kind in KINDS:
        after_silence = np.concatenate([np.zeros((3000, 2), np.int16), passage(kind, 6000, 5)])
        assert_valid(Cascade(FilterBankSettings.wide()), after_silence)


def test_the_first_sample_costs_no_more_than_a_plain_number() -> None:
    for value in [-32768, -300, 0, 1, 5000, 32767]:
        f = Cascade(SMALL).forecast(song(np.full((1, 1), value, np.int16)))
        assert f.bits[0, 0] < 20.0


def test_silence_costs_almost_nothing() -> None:
    f = Cascade(SMALL).forecast(song(np.zeros((20000, 2), np.int16)))
    assert f.bits[5000:].mean() < 0.01


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_minutes_of_a_hostile_mix_stay_finite() -> None:
    rng = np.random.default_rng(7)
    parts = []
    while sum(map(len, parts)) < 600 * RATE_HZ:
        parts.append(passage(str(rng.choice(KINDS)), int(rng.integers(1, 5 * RATE_HZ)), len(parts)))
    assert_valid(Cascade(), np.concatenate(parts)[: 600 * RATE_HZ])

"""The gate lets through what is better and sound, and says why it does not."""

import math

import pytest

from helpers.mlflow_store import numbers
from helpers.records import assert_sealed
from songcast.registry.gate import gate


def entry(measured, songs=("a", "b")):
    """What is kept of an evaluation in which every song was measured alike."""
    return {"summary": measured, "songs": dict.fromkeys(songs, measured)}


def of(*bits):
    """What is kept of an evaluation in which each song has its own bits per sample."""
    songs = {f"song {i}": {"bits_per_sample": b} for i, b in enumerate(bits)}
    return {"summary": numbers(sum(bits) / len(bits)), "songs": songs}


RIDGE = entry(numbers(7.0))


@pytest.mark.parametrize(
    ("candidate", "champion", "reasons"),
    [
        (numbers(6.0), None, []),
        (numbers(6.0), numbers(6.1), []),
        (numbers(7.0), None, ["not better than ridge"]),
        (numbers(7.5), None, ["not better than ridge"]),
        (numbers(6.0), numbers(6.0), ["not better than the champion"]),
        (numbers(7.5), numbers(6.0), ["not better than ridge", "not better than the champion"]),
        (numbers(6.0, lag_samples=1), None, ["lag_samples is 1"]),
        (numbers(6.0, lag_samples=-1), None, ["lag_samples is -1"]),
        (numbers(6.0, clipped_samples=3), None, ["clipped_samples is 3"]),
        (numbers(7.5, lag_samples=1), None, ["lag_samples is 1", "not better than ridge"]),
        (numbers(math.nan), numbers(6.0), ["bits_per_sample is nan"]),
        (numbers(math.inf), None, ["bits_per_sample is inf"]),
        (numbers(-math.inf), None, ["bits_per_sample is -inf"]),
        (numbers(6.0, prediction_gain_db=math.nan), None, ["prediction_gain_db is nan"]),
        (numbers(6.0), numbers(math.nan), ["cannot be compared with the champion"]),
        (numbers(6.0), {}, ["cannot be compared with the champion"]),
    ],
)
def test_each_fault_closes_the_gate_with_its_reason(candidate, champion, reasons):
    verdict = gate(entry(candidate), RIDGE, None if champion is None else entry(champion))
    assert verdict.passed is (not reasons)
    assert len(verdict.reasons) == len(reasons)
    for told, expected in zip(verdict.reasons, reasons, strict=True):
        assert told.startswith(expected)


@pytest.mark.parametrize(("songs", "said"), [(("a",), "over 1 song"), (("a", "b"), "over 2 songs")])
def test_the_reason_counts_the_songs_compared(songs, said):
    (reason,) = gate(entry(numbers(7.5), songs), entry(numbers(7.0), songs), None).reasons
    assert reason.endswith(said)


def test_a_lead_that_may_be_chance_does_not_move_the_champion():
    ridge, champion = of(9.0, 9.0, 9.0, 9.0), of(6.0, 5.0, 7.0, 6.5)
    by_luck = gate(of(5.0, 5.1, 7.1, 6.6), ridge, champion)
    assert by_luck.reasons[0].startswith("better than the champion by 0.1750 bits per sample over")
    assert "not beyond chance" in by_luck.reasons[0]
    assert gate(of(5.9, 4.9, 6.9, 6.3), ridge, champion).passed


def test_an_interval_that_ends_at_zero_does_not_move_the_champion():
    """One of two songs is as it was: a quarter of all draws takes that one twice and gains 0."""
    (reason,) = gate(of(5.0, 6.0), of(9.0, 9.0), of(6.0, 6.0)).reasons
    assert reason.endswith("not beyond chance: 95 % interval -1.0000 to +0.0000")
    assert gate(of(5.0, 5.9), of(9.0, 9.0), of(6.0, 6.0)).passed


@pytest.mark.parametrize("key", sorted(numbers(6.0)))
def test_a_number_that_is_missing_closes_the_gate(key):
    candidate = {k: v for k, v in numbers(6.0).items() if k != key}
    verdict = gate(entry(candidate), RIDGE, None)
    assert not verdict.passed
    assert any(key in reason and "missing" in reason for reason in verdict.reasons)


def test_a_verdict_is_sealed():
    assert_sealed(gate(entry(numbers(6.0)), RIDGE, None))


def test_without_a_measured_ridge_nothing_passes():
    assert not gate(entry(numbers(6.0)), {}, None).passed
    assert not gate(entry(numbers(6.0)), entry(numbers(math.nan)), None).passed

"""The gate lets through what is better and sound, and says why it does not."""

import math

import pytest

from mlflow_store import numbers
from songcast.gate import gate

RIDGE = numbers(7.0)


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
        (numbers(math.nan), numbers(6.0), ["bits_per_sample is nan"]),
        (numbers(math.inf), None, ["bits_per_sample is inf"]),
        (numbers(-math.inf), None, ["bits_per_sample is -inf"]),
        (numbers(6.0, prediction_gain_db=math.nan), None, ["prediction_gain_db is nan"]),
        (numbers(6.0), numbers(math.nan), ["the champion has no finite bits"]),
        (numbers(6.0), {}, ["the champion has no finite bits"]),
    ],
)
def test_each_fault_closes_the_gate_with_its_reason(candidate, champion, reasons):
    verdict = gate(candidate, RIDGE, champion)
    assert verdict.passed is (not reasons)
    assert len(verdict.reasons) == len(reasons)
    for told, expected in zip(verdict.reasons, reasons, strict=True):
        assert told.startswith(expected)


@pytest.mark.parametrize("key", sorted(numbers(6.0)))
def test_a_number_that_is_missing_closes_the_gate(key):
    candidate = {k: v for k, v in numbers(6.0).items() if k != key}
    verdict = gate(candidate, RIDGE, None)
    assert not verdict.passed
    assert any(key in reason and "missing" in reason for reason in verdict.reasons)


def test_without_a_measured_ridge_nothing_passes():
    assert not gate(numbers(6.0), {}, None).passed
    assert not gate(numbers(6.0), numbers(math.nan), None).passed

"""The compiled engine says what the Keras network says, and draws from it."""

import numpy as np
import pytest

from helpers.small_continuation import SETTINGS, continuation_model
from songcast.continuation.features import FAST, SLOW
from songcast.continuation.sampler import FUTURE, Sampler, SamplingOptions, Weights
from songcast.training.continuation import EDGES, crop

BLOCK, BLOCKS = 1024, 3
NEAR = (1.0, 0.4)


@pytest.fixture(scope="module")
def model():
    return continuation_model()


def excitations(rows, seed=0):
    rng = np.random.default_rng(seed)
    level = np.exp(rng.normal(0, 0.7, (rows, BLOCKS * BLOCK // 64 + 16))).repeat(64, 1)
    return (level * rng.normal(0, 1, level.shape)).astype(np.float32)


def forced(model, own, passage):
    """The mixtures of the engine, hearing ``own`` and ``passage``: (rows, frames, 3 M + 1)."""
    engine = Sampler(Weights.of(model.network), len(own), BLOCK)
    result = []
    for i in range(BLOCKS):
        here, after = i * BLOCK, (i + 1) * BLOCK
        ahead = passage[:, after : after + FUTURE]
        engine.force(own[:, here:after], passage[:, here:after], ahead, NEAR)
        result.append(engine.mixtures.copy())
    return np.concatenate(result, axis=1)


@pytest.mark.parametrize("rows", [1, 2])
def test_forced_output_equals_keras(model, rows):
    own, passage = excitations(rows, 1), excitations(rows, 2)
    result = forced(model, own, passage)
    steps = BLOCKS * BLOCK // SLOW
    size = (steps + EDGES) * SLOW

    def framed(x):
        return np.ascontiguousarray(np.pad(x, ((0, 0), (SLOW, 0)))[:, :size])

    near = np.tile(np.float32(NEAR), (steps, 1))
    for r in range(rows):
        order = [r, *[other for other in range(rows) if other != r]]
        prompt, played = framed(own[order]), framed(passage[order])
        inputs = crop(
            prompt, played, near, prompt, SETTINGS.look_back, np.arange(steps * SLOW // FAST)
        )[:-1]
        expected = np.asarray(model.network.predict_on_batch([x[None] for x in inputs]))[0]
        np.testing.assert_allclose(result[r], expected, atol=1e-4)
        assert np.ptp(expected[:, SETTINGS.mixtures], axis=0) > 0.1


def test_output_depends_only_on_the_past(model):
    own, passage = excitations(2, 1), excitations(2, 2)
    before = forced(model, own, passage)
    changed = own.copy()
    changed[:, 1500:] += 1.0
    after = forced(model, changed, passage)
    np.testing.assert_array_equal(before[:, :1501], after[:, :1501])
    assert np.any(before[:, 1501] != after[:, 1501])


def drawn(model, temperature, copy_share, seed=0, passage=None):
    engine = Sampler(Weights.of(model.network), 1, BLOCK)
    passage = excitations(1, 2) if passage is None else passage
    rng = np.random.default_rng(seed)
    drawing = SamplingOptions(temperature=temperature, copy_share=copy_share)
    parts = []
    for i in range(BLOCKS):
        here, after = i * BLOCK, (i + 1) * BLOCK
        ahead = passage[:, after : after + FUTURE]
        random = rng.random((1, BLOCK, 2))
        parts.append(engine.draw(passage[:, here:after], ahead, NEAR, drawing, random))
    return np.concatenate(parts, axis=1), engine


def test_copy_share_one_copies_the_passage(model):
    passage = excitations(1, 2)
    result, _ = drawn(model, 1.0, 1.0)
    np.testing.assert_allclose(result, np.clip(passage[:, : BLOCKS * BLOCK], -12, 12), atol=1e-3)


def test_temperature_zero_is_deterministic(model):
    np.testing.assert_array_equal(drawn(model, 0.0, 0.5, 1)[0], drawn(model, 0.0, 0.5, 2)[0])
    assert np.any(drawn(model, 1.0, 0.5, 1)[0] != drawn(model, 1.0, 0.5, 2)[0])


def test_samples_follow_the_mixture(model):
    """Each draw's place in its own distribution is uniform: Rosenblatt's transform."""
    result, engine = drawn(model, 1.0, 0.0, passage=np.zeros_like(excitations(1)))
    x, mixture = result[0, -BLOCK:, None], engine.mixtures[0]
    m = SETTINGS.mixtures
    z = (x - mixture[:, m : 2 * m]) / np.exp(mixture[:, 2 * m : 3 * m])
    places = np.sum(np.exp(mixture[:, :m]) / (1.0 + np.exp(-z)), axis=1)
    shares, _ = np.histogram(places, bins=8, range=(0, 1))
    assert np.all(np.abs(shares / BLOCK - 1 / 8) < 0.05)

"""A forecast is a code: an entropy coder brings a song down to the promised bits and back.

The decoder has nothing but the forecaster and the bits. A distribution is said before its
sample is known: the law of causality lets the decoder ask a copy of the session with any
placeholder in the sample's place.
"""

import copy
import copyreg
from concurrent.futures import Executor, Future

import constriction
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy.special import expit

from helpers.small_models import RATE_HZ, forecaster, music, song
from songcast.forecasting import filter_bank, lstm
from songcast.forecasting.distribution import (
    HIGHEST,
    LOWEST,
    UNIFORM_SHARE,
    VALUES,
    LogisticMixture,
)
from songcast.forecasting.filter_bank_settings import FilterBankSettings, LeastSquares, Lms
from songcast.forecasting.forecaster import Forecaster, ForecastSession
from songcast.forecasting.lstm import LstmSession

# The coder writes words of 32 bits and keeps two of them to end with.
CODER_BITS = 64


def coder_model(
    mixture: LogisticMixture, frame: int, channel: int
) -> constriction.stream.model.Model:
    """The distribution of one sample, as constriction wants it: by its CDF between values."""
    weights = mixture.weights[frame, channel]
    locations = mixture.locations[frame, channel]
    scales = mixture.scales[frame, channel]
    middle = float(mixture.mean[frame, channel])

    def cdf(edge: float) -> float:
        if edge <= LOWEST - 0.5 or edge >= HIGHEST + 0.5:
            return float(edge > 0)
        below = float(weights @ expit((edge - locations) / scales))
        return (1 - UNIFORM_SHARE) * below + UNIFORM_SHARE * (edge - LOWEST + 0.5) / VALUES

    return constriction.stream.model.CustomModel(cdf, lambda _: middle, LOWEST, HIGHEST)


def encode(model: Forecaster, samples) -> np.ndarray:
    """The song as 32-bit words."""
    mixture = model.session(samples.shape[1], RATE_HZ).forecast_block(samples)
    encoder = constriction.stream.queue.RangeEncoder()
    for frame, row in enumerate(samples):
        for channel, x in enumerate(row):
            encoder.encode(int(x), coder_model(mixture, frame, channel))
    return encoder.get_compressed()


def decode(model: Forecaster, words, frames: int, channels: int):
    """The song again, sample by sample, from the forecaster and the words alone."""
    decoder = constriction.stream.queue.RangeDecoder(words)
    session = model.session(channels, RATE_HZ)
    samples = np.zeros((frames, channels), np.int16)
    for frame in range(frames):
        row = samples[frame : frame + 1]
        for channel in range(channels):
            mixture = copy_of(session, model).forecast_block(row)
            row[0, channel] = decoder.decode(coder_model(mixture, 0, channel))
        session.forecast_block(row)
    return samples


def copy_of(session: ForecastSession, model: Forecaster) -> ForecastSession:
    """The session's state of its own; what cannot change is shared."""
    shared = [model, session._network] if isinstance(session, LstmSession) else [model]
    return copy.deepcopy(session, {id(thing): thing for thing in shared})


class Here(Executor):
    """No threads: for one sample, handing it over takes longer than the work."""

    def __init__(self, threads):
        pass

    def submit(self, work, *arguments):
        done = Future()
        done.set_result(work(*arguments))
        return done


@pytest.fixture(autouse=True)
def _one_sample_at_a_time_is_quick(monkeypatch):
    monkeypatch.setattr(filter_bank, "ThreadPoolExecutor", Here)
    for kind in (Here, FilterBankSettings, LeastSquares, Lms):
        monkeypatch.setitem(copyreg.dispatch_table, kind, lambda _: "itself")


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("name", ["persistence", "ridge", "cascade"])
def test_a_song_is_coded_in_the_promised_bits_and_decoded_without_loss(name, channels):
    model = forecaster(name)
    samples = music(2000 // channels, channels)
    words = encode(model, samples)
    assert_array_equal(decode(model, words, *samples.shape), samples)
    promised = model.forecast(song(samples)).bits.sum()
    assert promised / samples.size < 12.0
    assert 32 * len(words) == pytest.approx(promised, rel=0.01)


@pytest.mark.parametrize("name", ["lstm-cascade", "lstm-none"])
def test_the_lstm_codes_and_decodes_too_across_the_borders_of_its_blocks(name, monkeypatch):
    # Each sample evaluates a whole block: small blocks make it quick. The song is short, so
    # the coder's last words are granted besides the 1 %.
    monkeypatch.setattr(lstm, "BLOCK_FRAMES", 64)
    model = forecaster(name)
    samples = music(150, 2)
    words = encode(model, samples)
    assert_array_equal(decode(model, words, *samples.shape), samples)
    promised = model.forecast(song(samples)).bits.sum()
    assert 32 * len(words) == pytest.approx(promised, rel=0.01, abs=0.01 * promised + CODER_BITS)


@pytest.mark.parametrize("name", ["lstm-cascade", "lstm-none"])
def test_a_longer_song_needs_what_the_lstm_promises_within_one_percent(name):
    model = forecaster(name)
    samples = music(5000, 1)
    promised = model.forecast(song(samples)).bits.sum()
    assert 32 * len(encode(model, samples)) == pytest.approx(promised, rel=0.01)


def test_the_coder_uses_the_forecasters_own_masses():
    samples = music(300, 2)
    mixture = forecaster("cascade").session(2, RATE_HZ).forecast_block(samples)
    masses = mixture.masses(299, 1)
    likely = np.flatnonzero(masses > 1e-3)
    model = coder_model(mixture, 299, 1)
    sizes = []
    for index in likely:
        encoder = constriction.stream.queue.RangeEncoder()
        encoder.encode(np.full(1000, LOWEST + index, np.int32), model)
        sizes.append(encoder.num_bits() / 1000)
    # The coder divides 2^24 parts and gives each of the 65 536 values one of them first.
    np.testing.assert_allclose(sizes, -np.log2(masses[likely]), atol=0.08)
    assert len(likely) > 3

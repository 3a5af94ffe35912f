"""A forecast is a code: an entropy coder compresses a song to the predicted number of bits.

The decoder has only the forecaster and the bits. A distribution does not depend on its own
sample, so the decoder runs a copy of the session with any placeholder in place of the sample.
"""

import copy
import copyreg
from concurrent.futures import Executor, Future

import constriction
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy.special import expit

from helpers.small_models import forecaster, music, song
from songcast.forecasting import filter_bank
from songcast.forecasting.adaptation import Calibrated
from songcast.forecasting.calibration import BINS
from songcast.forecasting.distribution import Distribution
from songcast.forecasting.distribution_kernels import UNIFORM_SHARE, VALUES
from songcast.forecasting.filter_bank_settings import FilterBankSettings, LeastSquares, Lms
from songcast.forecasting.forecaster import Forecaster, ForecastSession
from songcast.forecasting.lstm import LstmForecaster

# The coder writes words of 32 bits; the last two end the stream.
CODER_BITS = 64
LOWEST, HIGHEST = -32768, 32767


def coder_model(
    distribution: Distribution, frame: int, channel: int
) -> constriction.stream.model.Model:
    """The distribution of one sample for constriction: its CDF between values."""
    edges, mixture = np.linspace(0.0, 1.0, BINS + 1), distribution
    if isinstance(distribution, Calibrated):
        edges, mixture = distribution.edges(frame, channel), distribution.average.mixture
    weights = mixture.weights[frame, channel]
    locations = mixture.locations[frame, channel]
    scales = mixture.scales[frame, channel]
    middle = float(mixture.mean[frame, channel])

    def cdf(edge: float) -> float:
        if edge <= LOWEST - 0.5 or edge >= HIGHEST + 0.5:
            return float(edge > 0)
        below = float(weights @ expit((edge - locations) / scales))
        below = float(np.interp(below, np.linspace(0.0, 1.0, BINS + 1), edges))
        return (1 - UNIFORM_SHARE) * below + UNIFORM_SHARE * (edge - LOWEST + 0.5) / VALUES

    return constriction.stream.model.CustomModel(cdf, lambda _: middle, LOWEST, HIGHEST)


def encode(model: Forecaster, samples) -> np.ndarray:
    """The song as 32-bit words."""
    mixture = model.session(samples.shape[1]).forecast_block(samples)
    encoder = constriction.stream.queue.RangeEncoder()
    for frame, row in enumerate(samples):
        for channel, x in enumerate(row):
            encoder.encode(int(x), coder_model(mixture, frame, channel))
    return encoder.get_compressed()


def decode(model: Forecaster, words, frames: int, channels: int):
    """The decoded song, sample by sample, from the forecaster and the words only."""
    decoder = constriction.stream.queue.RangeDecoder(words)
    session = model.session(channels)
    samples = np.zeros((frames, channels), np.int16)
    for frame in range(frames):
        row = samples[frame : frame + 1]
        for channel in range(channels):
            mixture = copy_of(session, model).forecast_block(row)
            row[0, channel] = decoder.decode(coder_model(mixture, 0, channel))
        session.forecast_block(row)
    return samples


def copy_of(session: ForecastSession, model: Forecaster) -> ForecastSession:
    """A copy of the session's state; immutable parts are shared."""
    shared = [model, model.matrices] if isinstance(model, LstmForecaster) else [model]
    return copy.deepcopy(session, {id(thing): thing for thing in shared})


class SameThread(Executor):
    """No threads: for one sample, they would take longer than the work."""

    def __init__(self, threads):
        pass

    def submit(self, work, *arguments):
        done = Future()
        done.set_result(work(*arguments))
        return done


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    monkeypatch.setattr(filter_bank, "ThreadPoolExecutor", SameThread)
    for kind in (SameThread, FilterBankSettings, LeastSquares, Lms):
        monkeypatch.setitem(copyreg.dispatch_table, kind, lambda _: "itself")


def test_a_song_is_coded_in_the_predicted_bits_and_decoded_without_loss():
    for channels in [1, 2]:
        for name in ["persistence", "ridge", "cascade"]:
            model = forecaster(name)
            samples = music(1000 // channels, channels)
            words = encode(model, samples)
            assert_array_equal(decode(model, words, *samples.shape), samples)
            predicted = model.forecast(song(samples)).bits.sum()
            assert predicted / samples.size < 12.0
            assert 32 * len(words) == pytest.approx(predicted, rel=0.01)


@pytest.mark.parametrize("name", ["lstm-cascade", "lstm-none"])
def test_the_lstm_codes_and_decodes_across_the_borders_of_its_steps(name):
    # The song is short, so the tolerance includes the coder's last words.
    model = forecaster(name)
    samples = music(70, 2)
    words = encode(model, samples)
    assert_array_equal(decode(model, words, *samples.shape), samples)
    predicted = model.forecast(song(samples)).bits.sum()
    assert 32 * len(words) == pytest.approx(predicted, rel=0.01, abs=0.01 * predicted + CODER_BITS)


def test_a_longer_song_needs_the_bits_of_the_lstm_within_one_percent():
    for name in ["lstm-cascade", "lstm-none"]:
        model = forecaster(name)
        samples = music(3000, 1)
        predicted = model.forecast(song(samples)).bits.sum()
        assert 32 * len(encode(model, samples)) == pytest.approx(predicted, rel=0.01)


def test_the_coder_uses_the_masses_of_the_forecaster():
    samples = music(300, 2)
    for name in ("cascade", "lstm-cascade"):
        distribution = forecaster(name).session(2).forecast_block(samples)
        masses = distribution.masses(299, 1)
        assert masses.sum() == pytest.approx(1.0)
        bits = distribution.bits(samples)[299, 1]
        assert -np.log2(masses[int(samples[299, 1]) - LOWEST]) == pytest.approx(bits, rel=1e-6)
        likely = np.flatnonzero(masses > 1e-3)
        likely = likely[:: max(1, len(likely) // 20)]
        model = coder_model(distribution, 299, 1)
        sizes = []
        for index in likely:
            encoder = constriction.stream.queue.RangeEncoder()
            encoder.encode(np.full(1000, LOWEST + index, np.int32), model)
            sizes.append(encoder.num_bits() / 1000)
        # The coder has 2^24 parts and first gives one to each of the 65 536 values.
        np.testing.assert_allclose(sizes, -np.log2(masses[likely]), atol=0.08)
        assert len(likely) > 3

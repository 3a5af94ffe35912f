"""Code length and prediction gain of an LSTM forecaster's network on validation passages."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from songcast.data.corpus import VALIDATION
from songcast.forecasting.distribution import BLOCK_FRAMES, LogisticMixture
from songcast.training.batches import validation_batches
from songcast.training.feature_cache import SongFeatures

F64 = NDArray[np.float64]

# Validation after an epoch uses at most so many songs, and so many blocks of each.
VALIDATION_SONGS = 256
VALIDATION_BLOCKS = 12


def validation_songs(songs: Sequence[SongFeatures]) -> list[SongFeatures]:
    """Return the songs with a validation passage; of more than ``VALIDATION_SONGS``, so many.

    They are evenly spread over ``songs``, and the same at every call.
    """
    usable = [song for song in songs if VALIDATION in song.splits]
    count = min(len(usable), VALIDATION_SONGS)
    return [usable[number * len(usable) // count] for number in range(count)]


def song_bits(network: Any, songs: Sequence[SongFeatures]) -> list[float]:
    """Return the bits per sample at the beginning of each song's validation passage.

    Songs without such a passage, or with one shorter than a block, are left out.
    """
    blocks = ([b for b, _, _ in islice(_blocks(network, s), VALIDATION_BLOCKS)] for s in songs)
    return [float(np.mean(np.concatenate(bits, axis=1))) for bits in blocks if bits]


def validation_measures(
    network: Any, song: SongFeatures, samples: NDArray[np.int16]
) -> dict[str, float]:
    """Return bits per sample and prediction gain (dB, all channels together) on validation.

    ``samples``: (frames, channels) int16, the whole song. The front end has processed the song
    from its first frame, or from a warm-up on; the network starts at the passage.
    """
    total, count, signal, error = 0.0, 0, 0.0, 0.0
    for bits, errors, first in _blocks(network, song):
        total, count = total + float(np.sum(bits)), count + bits.size
        x = samples[first : first + errors.shape[1]].astype(np.float64)
        signal, error = signal + float(np.sum(x**2)), error + float(np.sum(errors**2))
    if not count:
        return {"bits_per_sample": 0.0, "prediction_gain_db": 0.0}
    with np.errstate(divide="ignore"):
        gain = 10.0 * np.log10(signal / max(error, 1e-12))
    return {
        "bits_per_sample": total / count,
        "prediction_gain_db": float(np.maximum(gain, -200.0)),
    }


def _blocks(network: Any, song: SongFeatures) -> Iterator[tuple[F64, F64, int]]:
    """Yield bits and errors in LSB, (channels, frames) each, and their first frame in the song."""
    look_back = network.get_layer("windows").look_back
    state = np.zeros((song.channels, *network.input_shape[-1][1:]), np.float32)
    first = -(-song.splits.get(VALIDATION, (0, 0))[0] // song.step_frames) * song.step_frames
    for inputs, target in validation_batches(song, BLOCK_FRAMES, look_back):
        output, state = network.predict_on_batch([*inputs.values(), state])
        # All positions are relative to the combined mean, the sample's too.
        mixture = absolute_mixture(np.asarray(output), 1.0 / target[..., 1])
        samples = (target[..., 0] / target[..., 1]).astype(np.float64)
        yield mixture.bits(samples), samples - mixture.mean, song.first + first
        first += BLOCK_FRAMES


def absolute_mixture(output: NDArray[np.float32], unit: NDArray[np.float32]) -> LogisticMixture:
    """Convert the ``output`` of a Keras network (channels, n, 3 M) to LSB.

    ``output`` is in units of ``unit`` (channels, n) LSB.
    """
    log_weights, locations, log_scales = np.split(output.astype(np.float64), 3, axis=-1)
    weights = np.exp(log_weights)
    lsb = unit[..., None].astype(np.float64)
    return LogisticMixture(
        weights=weights / weights.sum(-1, keepdims=True),
        locations=locations * lsb,
        scales=np.exp(np.minimum(log_scales, 20.0)) * lsb,
    )

"""Surprising moments: planted clicks are found, undamaged music has few, blocks do not matter."""

import numpy as np
import pytest

import songcast
from songcast.audio.songs import Song
from songcast.inspection.events import (
    BIN_FRAMES,
    THRESHOLD,
    EventFinder,
    Overview,
    combined,
    joined,
    kind,
    labels,
    matched,
    peaks,
)

RATE, SECONDS = 22050, 4
CLICKS = 12


@pytest.fixture(scope="module")
def forecasts():
    """Undamaged and damaged samples with their bits, and frame and channel of each click."""
    rng = np.random.default_rng(3)
    t = np.arange(SECONDS * RATE) / RATE
    chord = sum(np.sin(2 * np.pi * f * t + rng.uniform(0, 6)) for f in rng.uniform(100, 1500, 6))
    x = 2000 * (chord[:, None] * [1.0, 0.7] + rng.normal(0, 0.002, (len(t), 2)))
    x = np.rint(x).astype(np.int16)
    at = (RATE + np.arange(CLICKS) * 5000 + rng.integers(0, 2000, CLICKS)).tolist()
    channels = rng.integers(0, 2, CLICKS).tolist()
    damaged = x.copy()
    for frame, channel in zip(at, channels, strict=True):
        local = np.diff(x[frame - 100 : frame + 100, channel].astype(float), 2)
        damaged[frame, channel] += round(8 * np.sqrt(np.mean(local**2)))
    model = songcast.load("cascade")
    songs = [Song(samples=s, sample_rate_hz=RATE, name="x") for s in (x, damaged)]
    return *((s.samples, model.forecast(s).bits) for s in songs), at, channels


def found(samples, bits, block=4096):
    finder = EventFinder(RATE, samples.shape[1])
    for start in range(0, len(samples), block):
        finder.add(samples[start : start + block], bits[start : start + block])
    return finder.result()


def test_planted_clicks_are_found_at_their_sample_and_undamaged_music_has_few(forecasts):
    clean, damaged, at, channels = forecasts
    assert len(found(*clean)) <= 1
    events = found(*damaged)
    near = [
        [e for e in events if abs(e["seconds"] - frame / RATE) <= 0.002 and e["channel"] == c]
        for frame, c in zip(at, channels, strict=True)
    ]
    assert sum(map(bool, near)) >= 3 / 4 * CLICKS and len(events) <= CLICKS + 1
    assert sum(e["kind"] == "click" for hit in near for e in hit) >= 3 / 4 * CLICKS


def test_blocks_of_any_size_give_the_same_events_and_curves(forecasts):
    samples, bits = forecasts[1]
    events = found(samples, bits)
    assert all(found(samples, bits, block) == events for block in (777, 65536, len(samples)))
    first = found(samples[:30_000], bits[:30_000])
    assert found(samples[:30_000], bits[:30_000], 100) == first
    for block in (64, 1000, 9999):
        overview = Overview(2)
        for start in range(0, len(samples), block):
            overview.add(samples[start : start + block], bits[start : start + block])
        size = BIN_FRAMES
        whole = len(overview.bins) * size
        parts = samples[:whole].reshape(-1, size * 2)
        assert 0 <= len(samples) - whole < size
        assert np.array_equal(overview.bins[:, 0], parts.min(1))
        assert np.array_equal(overview.bins[:, 1], parts.max(1))
        assert overview.bins[:, 2] == pytest.approx(bits[:whole].reshape(-1, size * 2).mean(1))


def test_silence_and_its_end_and_a_short_song_have_no_events():
    rng = np.random.default_rng(0)
    samples = np.zeros((RATE, 1), np.int16)
    assert found(samples, np.zeros((RATE, 1))) == []
    samples[RATE // 2 :] = rng.normal(0, 1000, (RATE - RATE // 2, 1))
    bits = np.where(samples == 0, 0.01, 12.0)
    assert found(samples, bits) == []
    for frames in (0, 1, 20, 40):
        assert found(samples[-frames:][:frames], bits[-frames:][:frames]) == []


def music(frames, seed):
    """A chord of decaying notes with little noise, (frames, 2)."""
    rng = np.random.default_rng(seed)
    t = np.arange(frames) / RATE
    tones = [np.sin(2 * np.pi * f * t + rng.uniform(0, 6)) for f in rng.uniform(100, 3000, 8)]
    x = 1500 * sum(tones)[:, None] * [1.0, 0.7] * np.exp(-t)[:, None]
    return np.rint(x + rng.normal(0, 20, x.shape))


def test_wrong_samples_are_found_where_they_are_and_most_joined_passages_are_splices():
    rng = np.random.default_rng(1)
    kinds = []
    for seed in range(6):
        x, at = music(8000, seed), 4000
        for wrong in (1, 2, 4):
            damaged = x.copy()
            damaged[at : at + wrong, 0] += rng.choice([-1, 1], wrong) * 1600
            response = matched(damaged)
            frame, channel = np.unravel_index(np.argmax(response), response.shape)
            assert at - 2 <= frame <= at + wrong and channel == 0
            assert response[frame, 0] > 10 > 2 * response[: at - 100].max()
            assert wrong == 4 or kind(int(frame), damaged) == "click"
        kinds.append(kind(at, np.concatenate([x[:at], music(8000, seed + 10)[:at]])))
    assert kinds.count("splice") >= 3


def test_the_onset_of_a_drum_is_no_event_and_neither_is_clipping():
    rng = np.random.default_rng(2)
    x = music(8000, 0)
    drum = np.exp(-np.arange(4000) / 600.0) * rng.normal(0, 4000, 4000)
    onset = x + np.concatenate([np.zeros(4000), drum])[:, None]
    assert matched(onset).max() < THRESHOLD / 2
    bits = np.zeros(len(x))
    clipped = np.clip(x * 20, -32768, 32767)
    assert (np.abs(clipped) >= 32767).any()
    assert combined(matched(clipped), bits, clipped).max() < THRESHOLD
    clipped = x.copy()
    clipped[4000] = 32767  # far above its surroundings
    assert combined(matched(clipped), bits, clipped)[4000] > THRESHOLD


def test_peaks_dropouts_and_labels():
    score = np.zeros(100)
    score[[10, 12, 40, 46, 70, 71]] = 5, 6, 7, 7, 3, 9
    assert peaks(score, 2, 4) == [12, 40, 46, 71] and peaks(score, 6.5, 6) == [40, 71]
    event = {"kind": "dropout", "seconds": 1.0, "channel": 0, "strength": 100.0}
    clicks = [event | {"kind": "click", "seconds": s, "channel": 1} for s in (0.5, 1.0, 1.1, 1.05)]
    events = joined([event], clicks)
    assert [e["seconds"] for e in events] == [0.5, 1.0, 1.05]
    assert labels(events).splitlines()[:2] == [
        "0.500000\t0.500000\tclick 100.0 deviations, channel 1",
        "1.000000\t1.100000\tdropout 100.0 ms, channel 0",
    ]

"""The forecast loop: equal to single blocks, with progress, cancellation and prefetching."""

import threading

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from helpers.small_models import BANK, music, randomised, song
from songcast.forecasting.baselines import Cascade, Persistence
from songcast.forecasting.distribution import BLOCK_FRAMES
from songcast.forecasting.forecaster import forecast_stream, prefetch


def test_the_loop_equals_the_blocks_of_each_session_by_hand():
    x = song(music(2 * BLOCK_FRAMES + 300, 2))
    models = [Cascade(BANK), randomised("cascade")]
    encode = models[1].front_end.open(2).encode
    sessions = [model.session(2) for model in models]
    own = [model.session(2) for model in models]
    starts = range(0, x.frames, BLOCK_FRAMES)
    together = forecast_stream(sessions, [x.samples], encode)
    for start, (block, distributions) in zip(starts, together, strict=True):
        assert_array_equal(block, x.samples[start : start + BLOCK_FRAMES])
        for session, distribution in zip(own, distributions, strict=True):
            mixture = session.forecast_block(block)
            assert_array_equal(distribution.mean, mixture.mean)
            assert_array_equal(distribution.bits(block), mixture.bits(block))


def test_a_song_in_parts_is_forecast_as_the_whole():
    x = music(2 * BLOCK_FRAMES + 300, 2)
    whole = Cascade(BANK).forecast(song(x))
    parts = np.split(x, [1, 70, BLOCK_FRAMES, 2 * BLOCK_FRAMES + 100])
    blocks = list(Cascade(BANK).stream(parts, 2))
    assert_array_equal(np.concatenate([block for block, _ in blocks]), x)
    assert_array_equal(np.concatenate([d.mean for _, d in blocks]), whole.mean)
    assert_array_equal(np.concatenate([d.bits(block) for block, d in blocks]), whole.bits)


def test_the_caller_sees_progress_and_can_cancel():
    x = song(music(2 * BLOCK_FRAMES + 300, 1))
    frames = []
    Persistence().forecast(x, frames.append)
    assert frames == [BLOCK_FRAMES, BLOCK_FRAMES, 300]

    def cancel(done):
        raise TimeoutError

    with pytest.raises(TimeoutError):
        Persistence().forecast(x, cancel)
    threads = set(threading.enumerate())
    blocks = forecast_stream([Persistence().session(1)], [x.samples])
    assert_array_equal(next(blocks)[0], x.samples[:BLOCK_FRAMES])
    blocks.close()
    assert set(threading.enumerate()) <= threads


def test_results_come_in_order_with_their_items():
    assert list(prefetch(str, range(5))) == [(i, str(i)) for i in range(5)]
    assert list(prefetch(str, [])) == []


def test_only_the_next_item_is_started_while_one_is_in_use():
    started = [threading.Event() for _ in range(4)]
    for number, _ in prefetch(lambda item: started[item].set(), range(4)):
        if number < 3:
            assert started[number + 1].wait(300)
        assert not any(event.is_set() for event in started[number + 2 :])


def test_an_exception_is_raised_and_no_later_item_is_started():
    started = []

    def work(item):
        started.append(item)
        return 1 // (2 - item)

    results = prefetch(work, range(5))
    assert [next(results), next(results)] == [(0, 0), (1, 1)]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert started == [0, 1, 2]


def test_closing_leaves_no_thread():
    before = set(threading.enumerate())
    results = prefetch(str, range(5))
    next(results)
    results.close()
    assert set(threading.enumerate()) <= before

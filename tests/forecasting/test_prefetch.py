"""Working ahead: what is worked on when, and what happens when something goes wrong."""

import threading

import pytest

from songcast.forecasting.forecaster import prefetch


def test_results_come_in_order_with_their_items():
    assert list(prefetch(str, range(5))) == [(i, str(i)) for i in range(5)]
    assert list(prefetch(str, [])) == []


def test_the_next_item_is_worked_on_while_one_is_looked_at_and_no_further_one():
    begun = [threading.Event() for _ in range(4)]
    for number, _ in prefetch(lambda item: begun[item].set(), range(4)):
        if number < 3:
            assert begun[number + 1].wait(300)
        assert not any(event.is_set() for event in begun[number + 2 :])


def test_what_work_raises_is_raised_and_nothing_later_is_begun():
    begun = []

    def work(item):
        begun.append(item)
        return 1 // (2 - item)

    found = prefetch(work, range(5))
    assert [next(found), next(found)] == [(0, 0), (1, 1)]
    with pytest.raises(ZeroDivisionError):
        next(found)
    assert begun == [0, 1, 2]


def test_closed_early_it_leaves_no_thread():
    before = set(threading.enumerate())
    found = prefetch(str, range(5))
    next(found)
    found.close()
    assert set(threading.enumerate()) <= before

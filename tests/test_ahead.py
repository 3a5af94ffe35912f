"""Working ahead: what is worked on when, and what happens when something goes wrong."""

import threading

import pytest

from songcast.ahead import ahead


@pytest.mark.parametrize("threads", [1, 3, 9])
def test_results_come_in_order_with_their_items(threads):
    assert list(ahead(str, range(5), threads)) == [(i, str(i)) for i in range(5)]
    assert list(ahead(str, [], threads)) == []


@pytest.mark.parametrize("threads", [1, 3])
def test_so_many_items_are_worked_on_while_one_is_looked_at_and_no_further_one(threads):
    begun = [threading.Event() for _ in range(8)]
    for number, _ in ahead(lambda item: begun[item].set(), range(8), threads):
        for following in begun[number + 1 : number + 1 + threads]:
            assert following.wait(300)
        assert not any(event.is_set() for event in begun[number + 1 + threads :])


def test_several_threads_work_at_once():
    together = threading.Barrier(3, timeout=300)
    assert len(list(ahead(lambda _: together.wait(), range(9), 3))) == 9


@pytest.mark.parametrize("threads", [1, 2])
def test_what_work_raises_is_raised_and_nothing_later_is_begun(threads):
    begun = []

    def work(item):
        begun.append(item)
        return 1 // (2 - item)

    found = ahead(work, range(6), threads)
    assert [next(found), next(found)] == [(0, 0), (1, 1)]
    with pytest.raises(ZeroDivisionError):
        next(found)
    assert sorted(begun) == list(range(2 + threads))


@pytest.mark.parametrize("threads", [1, 3])
def test_closed_early_it_leaves_no_thread(threads):
    before = set(threading.enumerate())
    found = ahead(str, range(5), threads)
    next(found)
    found.close()
    assert set(threading.enumerate()) <= before

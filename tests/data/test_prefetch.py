"""Loading ahead: order, bound, errors, closing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from edgeseg.data.prefetch import prefetch


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_order(workers: int) -> None:
    jobs = [(lambda n=n: n) for n in range(50)]
    assert list(prefetch(jobs, 4, workers=workers)) == list(range(50))


def test_never_further_ahead_than_depth() -> None:
    taken = 0

    def jobs() -> Iterator[Callable[[], int]]:
        nonlocal taken
        for n in range(20):
            taken += 1
            yield lambda n=n: n

    stream = prefetch(jobs(), 3)
    assert taken == 0  # nothing runs before the first result is asked for
    for n in range(5):
        assert next(stream) == n
        assert taken <= n + 1 + 3
    stream.close()
    assert taken <= 8


def test_jobs_run_beside_the_caller() -> None:
    """While the caller holds the first result the second job must run: it sets the event that the caller waits for."""
    second_ran = threading.Event()

    def first() -> str:
        return "first"

    def second() -> str:
        second_ran.set()
        return "second"

    stream = prefetch([first, second], 2)
    assert next(stream) == "first"
    assert second_ran.wait(timeout=10)
    assert next(stream) == "second"


def test_an_exception_comes_at_its_place() -> None:
    def fails() -> int:
        raise ValueError("third")

    stream = prefetch([lambda: 1, lambda: 2, fails, lambda: 4], 4)
    assert [next(stream), next(stream)] == [1, 2]
    with pytest.raises(ValueError, match="third"):
        next(stream)
    assert list(stream) == []


def test_leaving_the_loop_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    stream = prefetch(((lambda n=n: n) for n in range(1000)), 4, workers=2)
    for n in stream:
        if n == 3:
            break
    stream.close()
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize(("depth", "workers"), [(0, 1), (1, 0)])
def test_refuses_no_depth_and_no_workers(depth: int, workers: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        next(prefetch([lambda: 1], depth, workers=workers))

"""Loading ahead: the next pictures are decoded while the model works on this one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

__all__ = ["prefetch"]

T = TypeVar("T")


def prefetch(jobs: Iterable[Callable[[], T]], depth: int = 3, *, workers: int = 1) -> Generator[T, None, None]:
    """Run ``jobs`` in threads and give their results in order, never more than ``depth`` ahead of the caller.

    A job's exception is raised here, at its place in the order; jobs that have not begun are then dropped. Closing the
    generator, or leaving the loop over it, does the same. Memory holds ``depth`` results at most, however many jobs there are.

    Args:
        jobs: taken one by one, as needed, so that it may be a generator.
        depth: results that may wait, at least 1.
        workers: threads.

    >>> list(prefetch((lambda n=n: n * n) for n in range(4)))
    [0, 1, 4, 9]
    """
    if depth < 1 or workers < 1:
        raise ValueError("depth and workers must be at least 1")
    queue = iter(jobs)
    waiting: deque[Future[T]] = deque()
    pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="edgeseg-prefetch")
    try:
        waiting.extend(pool.submit(job) for job in islice(queue, depth))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(job) for job in islice(queue, 1))
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)

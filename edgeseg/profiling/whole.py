"""The whole network's time, to hold the sum of its operators against."""

from __future__ import annotations

import time
from collections.abc import Callable

from edgeseg.session import Session

__all__ = ["whole_us"]


def whole_us(session: Session, runs: int, pick: Callable[[list[float]], float]) -> float:
    """Microseconds of ``invoke`` over ``runs`` runs after two that do not count. The session was fed.

    Args:
        pick: what is made of the runs; the same as for the operators.
    """
    samples = []
    for _ in range(runs + 2):
        start = time.perf_counter_ns()
        session.invoke()
        samples.append((time.perf_counter_ns() - start) / 1e3)
    return pick(samples[2:])

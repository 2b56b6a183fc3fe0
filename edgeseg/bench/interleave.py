"""The shortest honest timing: several sessions in turn on one input, medians of the runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from edgeseg.session import ModelInput, Session

__all__ = ["interleaved_medians"]


def interleaved_medians(
    sessions: Sequence[Session],
    image: ModelInput,
    *,
    rounds: int = 30,
    warmup: int = 5,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> list[float]:
    """Median milliseconds of ``invoke`` of each session, run A B C A B C ... so that the machine's drift hits all alike.

    Only ratios of what one call returns mean anything. ``edgeseg bench`` gives intervals and a noise verdict.

    Args:
        clock: nanoseconds.
    """
    for session in sessions:
        session.feed(image)
        for _ in range(warmup):
            session.invoke()
    samples: list[list[int]] = [[] for _ in sessions]
    for _ in range(rounds):
        for session, times in zip(sessions, samples, strict=True):
            started = clock()
            session.invoke()
            times.append(clock() - started)
    return [float(np.median(times)) / 1e6 for times in samples]

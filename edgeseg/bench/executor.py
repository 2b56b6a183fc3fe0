"""One run of one candidate, timed phase by phase. Nothing here prints, allocates results or decides."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from edgeseg.bench.profile import Placement
from edgeseg.bench.result import Sample
from edgeseg.session import Float32, ModelInput, Session

__all__ = ["Candidate", "Clock", "run_once", "timer_cost"]

Clock: TypeAlias = Callable[[], int]
"""Monotonic nanoseconds."""


@dataclass(frozen=True)
class Candidate:
    """What is measured.

    Attributes:
        name: unique among the candidates of a run.
        open: gives a loaded session that is on its own threads; called once (and once more in a child process for memory).
        x: the input of every run.
        file: the file that ships, for its size.
        preprocess: image to input (decode, resize ...), timed where given; its result is what is fed.
        postprocess: logits to decision, timed where given.
        fed: what ``x`` is, in words.
        placement: what the runtime makes of the file, where that is known.
    """

    name: str
    open: Callable[[], Session]
    x: ModelInput
    file: Path | None = None
    preprocess: Callable[[], ModelInput] | None = None
    postprocess: Callable[[Float32], object] | None = None
    fed: str = ""
    placement: Placement | None = None


def run_once(session: Session, candidate: Candidate, clock: Clock = time.perf_counter_ns) -> Sample:
    """One run: preprocess, feed, invoke, fetch, postprocess."""
    x, preprocess, postprocess = candidate.x, 0, 0
    if candidate.preprocess is not None:
        start = clock()
        x = candidate.preprocess()
        preprocess = clock() - start
    start = clock()
    session.feed(x)
    fed = clock()
    session.invoke()
    invoked = clock()
    logits = session.fetch()
    fetched = clock()
    if candidate.postprocess is not None:
        candidate.postprocess(logits)
        postprocess = clock() - fetched
    return Sample(fed - start, invoked - fed, fetched - invoked, preprocess, postprocess)


def timer_cost(clock: Clock = time.perf_counter_ns, repeats: int = 200) -> float:
    """Median nanoseconds between two readings of the clock with nothing in between."""
    pairs = []
    for _ in range(repeats):
        first = clock()
        pairs.append(clock() - first)
    return statistics.median(pairs)

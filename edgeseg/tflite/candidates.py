"""What a search tries and finds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from edgeseg.metrics.expected import CAUTION
from edgeseg.metrics.measured import MeasuredDrop
from edgeseg.quantize.journal import SearchJournal
from edgeseg.quantize.plan import Domain, QuantPlan, TensorQuant
from edgeseg.tflite.effort import Effort
from edgeseg.tflite.graph import TfGraph
from edgeseg.tflite.judge import Score
from edgeseg.tflite.runtime import Feed

__all__ = ["Candidate", "SearchResult", "SearchSettings", "pareto"]

_LEAST_EQUAL = 0.9  # share of decisions; the check of what was written wants 0.8


@dataclass(frozen=True)
class SearchSettings:
    """``budget``: points of mIoU. ``boundary``: the domain in which the file's input arrives and its output is wanted.
    ``deadline``: of ``time.monotonic``. ``fixed``: tensors whose quantization is given (pixels, say).
    ``baseline``: the float graph to be faster than, and an image as it takes it; the searched graph itself where None.
    ``truth``: measures what a graph loses against masks, where there are any.
    ``journal``: what an interrupted search of the same graph on the same images has measured."""

    budget: float
    effort: Effort
    boundary: Domain
    deadline: float
    fixed: Mapping[str, TensorQuant] = field(default_factory=dict)
    baseline: tuple[TfGraph, Feed] | None = None
    truth: Callable[[TfGraph], MeasuredDrop] | None = None
    journal: SearchJournal = field(default_factory=SearchJournal)
    progress: Callable[[str], None] = field(default=lambda _: None)

    @property
    def late(self) -> bool:
        return time.monotonic() > self.deadline

    @property
    def expected_budget(self) -> float:
        """Points of expected loss that a mixture may have on calibration images: not all of the budget, unless masks have the last
        word."""
        return self.budget if self.truth is not None else CAUTION * self.budget

    def holds(self, candidate: Candidate) -> bool:
        """Within the budget, and deciding alike: a network that is unsure everywhere has no mIoU to lose, and must still come out
        as the network that went in."""
        return candidate.score.drop <= self.expected_budget and candidate.score.agreement >= _LEAST_EQUAL


@dataclass(frozen=True)
class Candidate:
    """One plan that was run. ``predicted_us``: sum of the operators' and conversions' costs. ``latency_ms``: measured beside
    the float graph, and ``measured``: against masks, both for those that came so far."""

    name: str
    plan: QuantPlan
    score: Score
    predicted_us: float
    int8: frozenset[str]
    latency_ms: float | None = None
    measured: MeasuredDrop | None = None

    @property
    def drop(self) -> float:
        """The loss as it is best known, points."""
        return self.score.drop if self.measured is None else self.measured.drop


@dataclass(frozen=True)
class SearchResult:
    """``best`` is within the budget and the fastest measured; where none is within the budget, the least harmful
    (``within`` False). ``float_ms`` was measured in the same run as the candidates' latencies."""

    best: Candidate
    within: bool
    float_ms: float
    candidates: tuple[Candidate, ...]
    notes: tuple[str, ...]


def pareto(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Those that no other beats in both predicted time and expected drop, fastest first."""
    front: list[Candidate] = []
    for one in sorted(candidates, key=lambda each: (each.predicted_us, each.score.drop)):
        if not front or one.score.drop < front[-1].score.drop:
            front.append(one)
    return tuple(front)

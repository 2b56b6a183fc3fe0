"""Hold a Q/DQ plan to a budget of mIoU: operators return to float by measured harm, until the estimated loss is small enough.

Noise of different operators is nearly independent, so its powers add at the network's output. Each weighted operator is run alone
in int8 (everything else in float), and the power it adds is measured there; those that do most harm for their multiply-adds
return first. How many must is found by halving, each time by the loss of the whole network, which needs no labels
(``metrics.expected``). First and last operators get no special treatment: where they matter, they are at the head of the list.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from edgeseg.metrics.expected import ExpectedDrop
from edgeseg.metrics.measured import MeasuredDrop, Runner
from edgeseg.onnxgraph.planning import with_float
from edgeseg.onnxgraph.qdq import QdqStyle, insert_qdq
from edgeseg.onnxgraph.statistics import streamed
from edgeseg.onnxgraph.view import WEIGHTED, GraphView
from edgeseg.pipeline import OUT_OF_TIME
from edgeseg.quantize.estimate import decision_snr
from edgeseg.quantize.journal import SearchJournal, plan_key
from edgeseg.quantize.plan import Domain, QuantPlan
from edgeseg.session import Float32, ModelInput
from edgeseg.spec import Layout

if TYPE_CHECKING:
    import onnx

__all__ = ["BudgetSettings", "Budgeted", "Mixture", "hold_budget"]

_TRYING = 0.75  # of the time left
_HELD = 512 * 2**20  # bytes of float outputs kept to compare with
_FEWEST = 4  # images that are compared even where their outputs are larger than that


@dataclass(frozen=True)
class BudgetSettings:
    """Attributes:
    points: of mIoU that int8 may cost, estimated.
    probes: images on which single operators are tried.
    threshold, probability: of a one-channel output, as for ``ExpectedDrop``.
    deadline: of the clock. A quarter of the time left is kept for what makes use of the single operators' harm; operators that
        were not reached return to float last.
    journal: what an interrupted search of the same graph on the same images has measured.
    search: False only measures the plan.
    truth: measures what a network loses against masks; where there are any, a loss is the larger of the estimate and the upper
        end of what was measured, which is asked for only of mixtures whose estimate is within the budget.
    """

    points: float = 0.3
    probes: int = 2
    threshold: float = 0.0
    probability: bool = False
    deadline: float = math.inf
    journal: SearchJournal = field(default_factory=SearchJournal)
    search: bool = True
    truth: Callable[[Runner], MeasuredDrop] | None = None


@dataclass(frozen=True)
class Mixture:
    """A plan that was run: how many weighted operators returned to float, and the points of mIoU it is expected to cost.
    ``measured``: against masks."""

    floats: int
    expected: float
    measured: MeasuredDrop | None = None

    @property
    def drop(self) -> float:
        """What has to be within the budget."""
        return self.expected if self.measured is None else max(self.expected, self.measured.worst)


@dataclass(frozen=True)
class Budgeted:
    """``drop``: the plan's expected loss, points, on ``images``; ``within`` the budget or not. ``tried``: in the order of trying,
    the plan as it was given first. ``measured``: the plan's loss against masks. ``notes``: what time ran out on."""

    plan: QuantPlan
    drop: float
    within: bool
    images: int
    tried: tuple[Mixture, ...]
    measured: MeasuredDrop | None = None
    notes: tuple[str, ...] = ()


def hold_budget(
    model: onnx.ModelProto,
    plan: QuantPlan,
    images: Sequence[ModelInput],
    settings: BudgetSettings,
    *,
    style: QdqStyle,
    pixels: bool = False,
    layout: Layout = Layout.NCHW,
    progress: Callable[[str], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> Budgeted:
    """The plan, with as little returned to float as the budget needs.

    Args:
        model: the float graph that ``plan`` is for.
        images: prepared calibration images to judge on, at least one.
        progress: told before each measurement what is measured, and the best mixture so far.

    Returns:
        Where no mixture with at least one int8 operator is within the budget: the one of least loss, ``within`` False.
    """
    job = _Job(model, plan, images, settings, style, pixels, layout, progress)
    first = job.drop(())
    if first <= settings.points or not settings.search:
        return Budgeted(plan, first, first <= settings.points, len(job.kept), tuple(job.tried), job.tried[0].measured)
    order = job.by_harm(settings.deadline, clock)
    notes = [] if len(job.noise) == len(order) else [f"{OUT_OF_TIME} while operators were tried one by one"]
    # Invariant: the first `enough` operators in float suffice, the first `few` do not. One operator stays int8 in any case.
    few, enough = 0, len(order)
    while enough - few > 1:
        if clock() > settings.deadline:
            notes.append(f"{OUT_OF_TIME} while looking for the fewest float operators")
            break
        middle = (few + enough) // 2
        job.say(f"looking for the fewest float operators: {middle}")
        if job.drop(order[:middle]) <= settings.points:
            enough = middle
        else:
            few = middle
    best = job.best
    reasons = {op: job.reason(op) for op in order[: best.floats]}
    return Budgeted(
        plan=with_float(model, plan, reasons, style=style) if reasons else plan,
        drop=best.drop,
        within=best.drop <= settings.points,
        images=len(job.kept),
        tried=tuple(job.tried),
        measured=best.measured,
        notes=tuple(notes),
    )


@dataclass
class _Job:
    model: onnx.ModelProto
    plan: QuantPlan
    images: Sequence[ModelInput]
    settings: BudgetSettings
    style: QdqStyle
    pixels: bool
    layout: Layout
    progress: Callable[[str], None]
    kept: list[Float32] = field(init=False)
    tried: list[Mixture] = field(default_factory=list)
    noise: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.kept = []
        for output in self._outputs(self.model, self.images):
            self.kept.append(output)
            if len(self.kept) >= _FEWEST and output.nbytes * (len(self.kept) + 1) > _HELD:
                break
        self.int8 = [entry.op for entry in self.plan.ops if entry.domain is Domain.INT8 and entry.kind in WEIGHTED]

    @property
    def best(self) -> Mixture:
        """Of those within the budget the one with the fewest float operators; where there is none, the one of least loss."""
        points = self.settings.points
        return min(self.tried, key=lambda one: (one.drop > points, one.floats if one.drop <= points else one.drop))

    def say(self, doing: str) -> None:
        """Tell what is being done, and the best mixture so far."""
        best = self.best
        self.progress(
            f"{doing}; best so far {best.floats} of {len(self.int8)} operators in float, expected loss {best.expected:.2f} points"
        )

    def drop(self, floats: Sequence[str]) -> float:
        """Expected loss with these operators in float, points."""
        plan, journal, truth = self._mixed(floats), self.settings.journal, self.settings.truth
        (expected,) = journal.once(f"drop {plan_key(plan)}", lambda: (self._expected(plan),))
        measured = None
        if truth and expected <= self.settings.points:
            found = journal.once(f"masks {plan_key(plan)}", lambda: truth(partial(self._outputs, self._emit(plan))).values)
            measured = MeasuredDrop.of(found)
        self.tried.append(Mixture(len(floats), expected, measured))
        return self.tried[-1].drop

    def _expected(self, plan: QuantPlan) -> float:
        estimate = ExpectedDrop(threshold=self.settings.threshold, probability=self.settings.probability)
        for reference, output in zip(self.kept, self._outputs(self._emit(plan), self.images), strict=False):
            estimate.update(reference, output)
        return estimate.drop

    def by_harm(self, deadline: float, clock: Callable[[], float]) -> list[str]:
        """The int8 operators, most harm at the output for their multiply-adds first."""
        view = GraphView(self.model)
        probes = self.images[: min(self.settings.probes, len(self.kept))]
        started = clock()
        reserve = started + _TRYING * (deadline - started)
        for index, op in enumerate(self.int8, 1):
            if clock() > reserve:
                break
            self.say(f"trying operators one by one: {index} of {len(self.int8)}")
            self.noise[op] = 10.0 ** (-self._alone(op, probes) / 10.0)
        work = {op: max(view.multiply_adds(view.producers[op]), 1) for op in self.int8}
        return sorted(self.int8, key=lambda op: -self.noise.get(op, 0.0) / work[op])

    def _alone(self, op: str, probes: Sequence[ModelInput]) -> float:
        """Decision SNR with this operator alone in int8, dB."""
        plan = self._mixed([other for other in self.int8 if other != op])

        def measure() -> tuple[float]:
            return (decision_snr(self.kept[: len(probes)], self._outputs(self._emit(plan), probes)),)

        (decibel,) = self.settings.journal.once(f"alone {plan_key(plan)}", measure)
        return decibel

    def reason(self, op: str) -> str:
        total = sum(self.noise.values())
        share = f"{self.noise[op] / total:.1%}" if op in self.noise and total else "an unmeasured part"
        return f"alone in int8 it makes {share} of the noise at the output; in float the budget holds"

    def _mixed(self, floats: Collection[str]) -> QuantPlan:
        if not floats:
            return self.plan
        return with_float(self.model, self.plan, dict.fromkeys(floats, "tried in float"), style=self.style)

    def _emit(self, plan: QuantPlan) -> onnx.ModelProto:
        return insert_qdq(self.model, plan, style=self.style)

    def _outputs(self, model: onnx.ModelProto, images: Iterable[ModelInput]) -> Iterator[Float32]:
        return streamed(model, images, pixels=self.pixels, layout=self.layout)

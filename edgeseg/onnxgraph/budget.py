"""Hold a Q/DQ plan to a budget of mIoU: operators return to float by measured harm, until the estimated loss is small enough.

Noise of different operators is nearly independent, so its powers add at the network's output. Each weighted operator is run alone
in int8 (everything else in float), and the power it adds is measured there; those that do most harm for their multiply-adds
return first. How many must is found by halving, each time by the loss of the whole network, which needs no labels
(``metrics.expected``). First and last operators get no special treatment: where they matter, they are at the head of the list.
"""

from __future__ import annotations

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
from edgeseg.quantize.estimate import decision_snr
from edgeseg.quantize.plan import Domain, QuantPlan
from edgeseg.session import Float32, ModelInput
from edgeseg.spec import Layout

if TYPE_CHECKING:
    import onnx

__all__ = ["BudgetSettings", "Budgeted", "Mixture", "hold_budget"]

_HELD = 512 * 2**20  # bytes of float outputs kept to compare with
_FEWEST = 4  # images that are compared even where their outputs are larger than that


@dataclass(frozen=True)
class BudgetSettings:
    """Attributes:
    points: of mIoU that int8 may cost, estimated.
    probes: images on which single operators are tried.
    threshold, probability: of a one-channel output, as for ``ExpectedDrop``.
    limit_s: seconds that trying single operators may take; those not reached return to float last.
    search: False only measures the plan.
    truth: measures what a network loses against masks; where there are any, a loss is the larger of the estimate and the upper
        end of what was measured, which is asked for only of mixtures whose estimate is within the budget.
    """

    points: float = 0.3
    probes: int = 2
    threshold: float = 0.0
    probability: bool = False
    limit_s: float = 600.0
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
    the plan as it was given first. ``measured``: the plan's loss against masks."""

    plan: QuantPlan
    drop: float
    within: bool
    images: int
    tried: tuple[Mixture, ...]
    measured: MeasuredDrop | None = None


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

    Returns:
        Where no mixture with at least one int8 operator is within the budget: the one of least loss, ``within`` False.
    """
    job = _Job(model, plan, images, settings, style, pixels, layout)
    first = job.drop(())
    if first <= settings.points or not settings.search:
        return Budgeted(plan, first, first <= settings.points, len(job.kept), tuple(job.tried), job.tried[0].measured)
    progress("trying operators one by one")
    order = job.by_harm(clock() + settings.limit_s, clock)
    progress("looking for the fewest float operators")
    # Invariant: the first `enough` operators in float suffice, the first `few` do not. One operator stays int8 in any case.
    few, enough = 0, len(order)
    while enough - few > 1:
        middle = (few + enough) // 2
        if job.drop(order[:middle]) <= settings.points:
            enough = middle
        else:
            few = middle
    best = min(job.tried, key=lambda one: (one.drop > settings.points, one.floats if one.drop <= settings.points else one.drop))
    if best.floats == 0:
        return Budgeted(plan, first, False, len(job.kept), tuple(job.tried), best.measured)
    chosen = order[: best.floats]
    kept = with_float(model, plan, {op: job.reason(op) for op in chosen}, style=style)
    return Budgeted(kept, best.drop, best.drop <= settings.points, len(job.kept), tuple(job.tried), best.measured)


@dataclass
class _Job:
    model: onnx.ModelProto
    plan: QuantPlan
    images: Sequence[ModelInput]
    settings: BudgetSettings
    style: QdqStyle
    pixels: bool
    layout: Layout
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

    def drop(self, floats: Sequence[str]) -> float:
        """Expected loss with these operators in float, points."""
        estimate = ExpectedDrop(threshold=self.settings.threshold, probability=self.settings.probability)
        mixed = self._mixed(floats)
        for reference, output in zip(self.kept, self._outputs(mixed, self.images), strict=False):
            estimate.update(reference, output)
        truth = self.settings.truth
        measured = truth(partial(self._outputs, mixed)) if truth and estimate.drop <= self.settings.points else None
        self.tried.append(Mixture(len(floats), estimate.drop, measured))
        return self.tried[-1].drop

    def by_harm(self, deadline: float, clock: Callable[[], float]) -> list[str]:
        """The int8 operators, most harm at the output for their multiply-adds first."""
        view = GraphView(self.model)
        probes = self.images[: min(self.settings.probes, len(self.kept))]
        for op in self.int8:
            if clock() > deadline:
                break
            alone = self._mixed([other for other in self.int8 if other != op])
            decibel = decision_snr(self.kept[: len(probes)], self._outputs(alone, probes))
            self.noise[op] = 10.0 ** (-decibel / 10.0)
        work = {op: max(view.multiply_adds(view.producers[op]), 1) for op in self.int8}
        return sorted(self.int8, key=lambda op: -self.noise.get(op, 0.0) / work[op])

    def reason(self, op: str) -> str:
        total = sum(self.noise.values())
        share = f"{self.noise[op] / total:.1%}" if op in self.noise and total else "an unmeasured part"
        return f"alone in int8 it makes {share} of the noise at the output; in float the budget holds"

    def _mixed(self, floats: Collection[str]) -> onnx.ModelProto:
        plan = (
            with_float(self.model, self.plan, dict.fromkeys(floats, "tried in float"), style=self.style)
            if floats
            else self.plan
        )
        return insert_qdq(self.model, plan, style=self.style)

    def _outputs(self, model: onnx.ModelProto, images: Iterable[ModelInput]) -> Iterator[Float32]:
        return streamed(model, images, pixels=self.pixels, layout=self.layout)

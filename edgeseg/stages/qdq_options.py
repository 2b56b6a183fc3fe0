"""What ``edgeseg compile`` says about an int8 plan in Q/DQ form, for ONNX Runtime and TensorRT alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeseg.data.calibration import CalibrationSet
from edgeseg.errors import UsageError
from edgeseg.metrics.expected import CAUTION
from edgeseg.metrics.measured import Runner
from edgeseg.onnxgraph.budget import Budgeted, BudgetSettings
from edgeseg.onnxgraph.qdq import QdqStyle
from edgeseg.preprocess import raw_threshold
from edgeseg.quantize.journal import SearchJournal
from edgeseg.session import ModelInput
from edgeseg.spec import ModelSpec, OutputKind
from edgeseg.stages.search_journal import journal_of
from edgeseg.stages.truth import CHECKED, TruthJudge
from edgeseg.stages.verdict import VETO

__all__ = ["QdqOptions", "budget_notes"]

_JUDGED = {"quick": 6, "normal": 16, "max": 32}
"""Calibration images on which the loss of mIoU is estimated, by effort."""


@dataclass(frozen=True)
class QdqOptions:
    """Attributes:
    plan: carry out this ``quantization.json``.
    policy: ``auto`` holds the budget; ``full`` quantizes what can be; ``float-ops=KIND,KIND`` leaves those kinds in float.
    effort: ``quick``, ``normal`` or ``max``.
    budget: points of mIoU that int8 may cost.
    time_limit_s: of the search for ranges and for operators that must stay float, seconds.
    resumes: go on from what an interrupted search has measured.
    """

    plan: Path | None = None
    policy: str = "auto"
    effort: str = "normal"
    budget: float = 0.3
    time_limit_s: float = 600.0
    resumes: bool = True
    progress: Callable[[str], None] = lambda _: None

    def check(self) -> None:
        """Raise UsageError where policy or effort make no sense."""
        if self.policy.partition("=")[0] not in {"auto", "full", "float-ops"} or self.effort not in _JUDGED:
            raise UsageError(
                f"There is no policy '{self.policy}' or effort '{self.effort}'.",
                hint=f"Policies: auto, full, float-ops=KIND,KIND. Efforts: {', '.join(_JUDGED)}.",
            )

    @property
    def float_kinds(self) -> frozenset[str]:
        """The operator kinds that ``float-ops`` names."""
        policy, _, named = self.policy.partition("=")
        return frozenset(kind.strip() for kind in named.split(",") if kind.strip()) if policy == "float-ops" else frozenset()

    @property
    def judged(self) -> int:
        """How many calibration images estimate the loss."""
        return _JUDGED[self.effort]

    def settings(
        self, spec: ModelSpec, calibration: CalibrationSet | Sequence[ModelInput], reference: Runner
    ) -> BudgetSettings:
        """As ``hold_budget`` takes them; without masks part of the budget is left for images that are not calibration images.

        Args:
            calibration: prepared images by themselves have no masks.
            reference: the float network.
        """
        labelled = None
        if isinstance(calibration, CalibrationSet) and calibration.masks:
            labelled = calibration.take(CHECKED[self.effort])
        return BudgetSettings(
            points=self.budget if labelled is not None else CAUTION * self.budget,
            truth=TruthJudge(reference, labelled) if labelled is not None else None,
            threshold=raw_threshold(spec),
            probability=spec.output.kind is OutputKind.PROBABILITY,
            search=self.searches,
        )

    @property
    def searches(self) -> bool:
        """Whether operators are looked for that must stay float."""
        return self.policy == "auto" and self.plan is None

    def journal(
        self, graph: bytes, calibration: CalibrationSet | Sequence[ModelInput], spec: ModelSpec, *, style: QdqStyle
    ) -> SearchJournal:
        """What was measured of this float graph on these images, if a search of them was interrupted; prepared images by
        themselves have no name by which they could be known again."""
        if not self.resumes or not self.searches or not isinstance(calibration, CalibrationSet):
            return SearchJournal()
        return journal_of(graph, calibration, spec, f"{style} {self.effort}")


def budget_notes(budgeted: Budgeted, points: float, *, instead: str, where: str = "") -> tuple[str, ...]:
    """What the manifest says of the loss that int8 is expected to bring. ``instead``: the target that keeps the accuracy."""
    estimate = f"expected loss {budgeted.drop:.2f} points of {points:g} allowed, on {budgeted.images} calibration images{where}"
    tried = tuple(
        f"with {one.floats} more weighted operators in float: expected loss {one.drop:.2f}"
        for one in budgeted.tried
        if one.floats
    )
    if budgeted.measured is not None:
        tried = (f"loses {budgeted.measured.text}", *tried)
    tried = (*budgeted.notes, *tried)
    if budgeted.drop <= points:
        return (estimate, *tried)
    return (f"{VETO}: int8 is not within the budget; {instead} keeps the accuracy", estimate, *tried)

"""The comparison after every stage: its output against the stage before it, on calibration images."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from edgeseg.artifact import AgreementRecord
from edgeseg.errors import CheckFailed, StageError
from edgeseg.graph import Graph
from edgeseg.metrics.agreement import Agreement, AgreementAccumulator
from edgeseg.pipeline import Stage
from edgeseg.session import Float32, ModelInput, Session, infer

__all__ = ["DECISIONS", "EXACT", "FP16", "INT8", "RESIZED", "AgreementCheck", "Floor", "record_agreement"]


@dataclass(frozen=True)
class Floor:
    """The least agreement a stage may have with the one before it: ``snr_db`` in dB, ``argmax`` as a share 0..1."""

    snr_db: float
    argmax: float


EXACT = Floor(snr_db=50.0, argmax=0.999)
"""Stages that only rewrite: everything beyond float32 rounding is a mistake (correct converters give 80 dB and more)."""

FP16 = Floor(snr_db=30.0, argmax=0.99)
"""Half precision keeps 11 bits of significand; 30 dB leaves room for a deep network's accumulation."""

INT8 = Floor(snr_db=5.0, argmax=0.80)
"""Not a verdict on quality, which ``edgeseg eval`` and the gate give: below this the file computes something else."""


DECISIONS = Floor(snr_db=-math.inf, argmax=0.9999)
"""For a file that gives labels: its decisions must be the same; there are no logits to compare."""

RESIZED = Floor(snr_db=30.0, argmax=0.98)
"""For small logits of an int8 file: resized outside they are not rounded to int8 again, which turns decisions at ties
(measured on DeepLabV3+: 44 dB and 99.5 % equal). Of a float file they must be exact."""


def record_agreement(against: str, agreement: Agreement) -> AgreementRecord:
    """An ``Agreement`` as the manifest keeps it; infinite dB (identical outputs) is written as 999."""
    snr = agreement.snr_db
    return AgreementRecord(
        against=against,
        images=agreement.n,
        snr_db=round(min(max(snr, -999.0), 999.0), 2),
        max_abs=agreement.max_abs if math.isfinite(agreement.max_abs) else 3.4e38,
        argmax=agreement.agreement,
    )


@dataclass
class AgreementCheck:
    """Runs each new graph on ``images`` and compares it with the outputs kept from the graph before it.

    Args:
        open_session: opens a graph; ``None`` opens the model itself.
        images: the calibration images compared.
        floors: by stage name; a stage without one must be ``EXACT``.
        explain: called when a comparison fails; says which tensor is worst, or nothing.
        threshold: of a one-channel output, in the domain of the output.

    Raises:
        CheckFailed: below the stage's floor, naming the stage, the worst tensor and what to try.
        StageError: the output has another shape than before.
    """

    open_session: Callable[[Graph | None], Session]
    images: Sequence[ModelInput]
    floors: Mapping[str, Floor]
    explain: Callable[[Graph, Graph], str]
    threshold: float = 0.0
    _kept: list[Float32] = field(default_factory=list)
    _kept_name: str = "PyTorch"

    def reference(self) -> None:
        """Run the model itself; called once before the first stage."""
        self._kept = self._run(None)

    def _run(self, graph: Graph | None) -> list[Float32]:
        with self.open_session(graph) as session:
            return [infer(session, image) for image in self.images]

    def __call__(self, stage: Stage, before: Graph | None, after: Graph) -> AgreementRecord:
        if not self._kept:
            self.reference()
        outputs = self._run(after)
        accumulator = AgreementAccumulator(threshold=self.threshold)
        for reference, candidate in zip(self._kept, outputs, strict=True):
            if reference.shape != candidate.shape:
                raise StageError(
                    f"its output has shape {candidate.shape}, the stage before gave {reference.shape}.",
                    hint="The converter changed the model's output; report the model, or try another route.",
                    stage=stage.name,
                )
            accumulator.update(reference, candidate)
        agreement = accumulator.compute()
        record = record_agreement(self._kept_name, agreement)
        floor = self.floors.get(stage.name, EXACT)
        if record.snr_db < floor.snr_db or record.argmax < floor.argmax:
            worst = self.explain(before, after) if before is not None else ""
            raise CheckFailed(
                f"Stage '{stage.name}' does not agree with {self._kept_name} on {agreement.n} calibration images: "
                f"{record.snr_db:.1f} dB and {record.argmax:.2%} equal decisions, at least {floor.snr_db:.0f} dB and "
                f"{floor.argmax:.1%} are required.{worst}",
                hint="Nothing was written. Check that calibration images and preprocessing fit the model "
                "(edgeseg eval MODEL), or try another target.",
            )
        self._kept, self._kept_name = outputs, stage.name
        return record

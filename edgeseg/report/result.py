"""What the verbs bench and drift give. Everything here goes to JSON and back with msgspec."""

from __future__ import annotations

import msgspec

from edgeseg.bench.result import BenchResult
from edgeseg.metrics.drift import DriftResult
from edgeseg.report.waterfall import Waterfall

__all__ = ["Absent", "BenchReport", "DriftReport", "LayerError"]


class Absent(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A row that could not be measured, and why."""

    name: str
    why: str


class BenchReport(msgspec.Struct, frozen=True, kw_only=True):
    """One result for each number of threads; ratios hold within a result only.

    Attributes:
        image: what every run was fed.
        device: where it ran, as ``--device`` says it.
        absent: what was asked for and is impossible on this machine.
        notes: what a reader of the figures must know.
    """

    schema: int = 1
    image: str
    runs: tuple[BenchResult, ...]
    device: str = "cpu"
    absent: tuple[Absent, ...] = ()
    notes: tuple[str, ...] = ()


class LayerError(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One tensor against the float graph: the operator that computes it, whether it is held in 8 bits; ``snr_db`` is None where
    they are equal."""

    tensor: str
    op: str
    int8: bool
    snr_db: float | None


class DriftReport(msgspec.Struct, frozen=True, kw_only=True):
    """One file against its reference.

    Attributes:
        waterfall: None where the chain's earlier files were not measured.
        layers: tensors of an INT8 file against those of the float file it was made from, on a few evaluation images, in
            execution order.
        notes: what could not be shown, and why.
    """

    schema: int = 2
    subject: str
    reference: str
    runtime: str
    reference_runtime: str
    drift: DriftResult
    waterfall: Waterfall | None
    layers: tuple[LayerError, ...]
    notes: tuple[str, ...] = ()

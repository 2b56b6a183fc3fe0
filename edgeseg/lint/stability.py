"""Whether there are enough images: what one half of them says of the ranges, the other half must say too."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from edgeseg.errors import UsageError
from edgeseg.lint.findings import Code, Figure, Finding, HalvesOutcome, LintReport, Severity
from edgeseg.quantize.observe import Observer
from edgeseg.quantize.ranges import estimate

__all__ = ["TOLERANCE", "ActivationStability", "TensorShift", "activation_stability", "range_shift", "with_halves"]

TOLERANCE = 0.1
"""Largest difference of two halves' ranges, as a share of the range. A range that is a tenth too wide costs 0.14 of 8 bits;
one that is a tenth too narrow clips."""

_SAME_OUTCOME = 0.3  # points of mIoU: what a compile may lose by default
_TAIL = 0.001
_DIVISIONS = 25
_ESTIMATOR = "percentile-99.9"

UInt32 = npt.NDArray[np.uint32]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TensorShift:
    """One tensor's ranges in two halves. ``shift``: largest difference of an end, as a share of the range of both."""

    name: str
    first: tuple[float, float]
    second: tuple[float, float]
    shift: float


@dataclass(frozen=True)
class ActivationStability:
    """All tensors, the least stable first."""

    tensors: tuple[TensorShift, ...]
    tolerance: float

    @property
    def unstable(self) -> tuple[TensorShift, ...]:
        """Those whose ranges differ by more than the tolerance."""
        return tuple(tensor for tensor in self.tensors if tensor.shift > self.tolerance)


def range_shift(histograms: UInt32, *, seed: int) -> float:
    """How far the input's range differs between two random halves of the images, as a share of the range.

    Args:
        histograms: uint32 (n, C, 256), one picture's pixel values each; n at least 2.
        seed: of the divisions.

    Returns:
        The median over 25 random divisions of the largest difference, over the channels, of the 0.1 % and 99.9 % quantiles.
    """
    count = len(histograms)
    rng = np.random.default_rng(seed)
    low, high = _ends(histograms.sum(axis=0, dtype=np.float64))
    width = np.maximum(high - low, 1.0)
    shifts = []
    for _ in range(_DIVISIONS):
        order = rng.permutation(count)
        one = _ends(histograms[order[: count // 2]].sum(axis=0, dtype=np.float64))
        two = _ends(histograms[order[count // 2 :]].sum(axis=0, dtype=np.float64))
        shifts.append(float((np.maximum(np.abs(one[0] - two[0]), np.abs(one[1] - two[1])) / width).max()))
    return float(np.median(shifts))


def activation_stability(
    first: Mapping[str, Observer], second: Mapping[str, Observer], *, tolerance: float = TOLERANCE
) -> ActivationStability:
    """Compare the ranges of all tensors as two halves of the calibration images gave them.

    The ranges leave 0.1 % of the values out on either side: extremes alone depend on single pixels.

    Args:
        first: what one half of the images gave, by tensor name.
        second: what the other half gave, of the same tensors.
        tolerance: see ``TOLERANCE``.

    Raises:
        UsageError: the tensors are not the same.
        DataError: a tensor was not observed.
    """
    if first.keys() != second.keys():
        lonely = sorted(first.keys() ^ second.keys())
        raise UsageError(
            f"Two halves must have observed the same tensors; '{lonely[0]}' is in one of them only.",
            hint="Observe the same graph with both halves of the images.",
        )
    shifts = (_tensor_shift(name, first[name], second[name]) for name in first)
    return ActivationStability(tuple(sorted(shifts, key=lambda one: (-one.shift, one.name))), tolerance)


def with_halves(report: LintReport, halves: HalvesOutcome) -> LintReport:
    """The report with the outcome of both halves, and with a finding where they part by more than 0.3 points."""
    apart = abs(halves.drops[0] - halves.drops[1])
    findings = report.findings
    if apart > _SAME_OUTCOME:
        finding = Finding(
            code=Code.UNSTABLE_OUTCOME,
            severity=Severity.WARNING,
            message=f"Calibrated with one half of the images, INT8 is expected to lose {max(halves.drops):.2f} points of mIoU, "
            f"with the other {min(halves.drops):.2f}: the result hangs on which pictures are drawn.",
            remedy="Give more images of every kind that the model will meet; 100 are usual.",
            figures=(
                Figure(name="difference of the halves' losses, points", value=apart, limit=_SAME_OUTCOME),
                Figure(name="share of equal decisions", value=halves.agreement),
                Figure(name="tensors with ranges that differ", value=halves.unstable),
            ),
        )
        findings = (*findings, finding)
    return msgspec.structs.replace(report, findings=findings, halves=halves)


def _tensor_shift(name: str, first: Observer, second: Observer) -> TensorShift:
    one, two = estimate(first, _ESTIMATOR), estimate(second, _ESTIMATOR)
    width = max(one.high, two.high) - min(one.low, two.low)
    apart = max(abs(one.low - two.low), abs(one.high - two.high))
    shift = apart / width if width > 0 else 0.0
    return TensorShift(name, (one.low, one.high), (two.low, two.high), shift if math.isfinite(shift) else math.inf)


def _ends(counts: Float64) -> tuple[Float64, Float64]:
    """The values that ``_TAIL`` of all pixels are below and above: (C, 256) to two of (C,)."""
    below = np.cumsum(counts, axis=1) / counts.sum(axis=1, keepdims=True)
    low = (below < _TAIL).sum(axis=1)
    high = (below < 1 - _TAIL).sum(axis=1)
    return low.astype(np.float64), high.astype(np.float64)

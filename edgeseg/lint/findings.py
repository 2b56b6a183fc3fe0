"""What a lint says. Everything here goes to JSON and back with msgspec."""

from __future__ import annotations

from enum import StrEnum

import msgspec

__all__ = ["Code", "Figure", "Finding", "HalvesOutcome", "LintReport", "Severity", "Skipped"]


class Severity(StrEnum):
    """ERROR: the ranges or the proof would be wrong. WARNING: they would be worse than they could be, or it is worth a look."""

    ERROR = "error"
    WARNING = "warning"


class Code(StrEnum):
    """The name of each finding."""

    UNUSABLE = "unusable"
    CONSTANT = "constant"
    NEARLY_BLACK = "nearly-black"
    RANDOM_NOISE = "random-noise"
    EXACT_DUPLICATES = "exact-duplicates"
    NEAR_DUPLICATES = "near-duplicates"
    IN_EVALUATION = "in-evaluation"
    NEAR_EVALUATION = "near-evaluation"
    VALUE_RANGE = "value-range"
    COLOR_ORDER = "color-order"
    GRAY_IMAGES = "gray-images"
    TOO_FEW = "too-few"
    DIFFERENT_KIND = "different-kind"
    DISTORTED = "distorted"
    SMALL_IMAGES = "small-images"
    SOFT_IMAGES = "soft-images"
    UNSTABLE_OUTCOME = "unstable-outcome"


class Figure(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A number that a finding rests on. ``limit``: where the finding begins; None where it only informs."""

    name: str
    value: float
    limit: float | None = None


class Finding(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One thing that is wrong.

    Attributes:
        message: one sentence, with figures.
        remedy: one sentence that says what to do.
        images: names of the calibration images that it is about; empty where it is about the set or the spec.
        twins: for images that resemble another, the two names; the second is an evaluation image where the code says so.
    """

    code: Code
    severity: Severity
    message: str
    remedy: str
    images: tuple[str, ...] = ()
    twins: tuple[tuple[str, str], ...] = ()
    figures: tuple[Figure, ...] = ()


class Skipped(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Checks that were not made, and why."""

    codes: tuple[Code, ...]
    why: str


class HalvesOutcome(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What INT8 calibration with either half of the images leads to; see ``edgeseg.halves``.

    Attributes:
        images: of both halves.
        drops: expected loss of mIoU against the float network, points, everything in int8; of the first and the second half.
        agreement: share of equal decisions of the two files, 0..1.
        tensors: activations whose ranges were compared.
        unstable: how many of them differ by more than a tenth of the range; ``least_stable`` names a few.
    """

    images: int
    drops: tuple[float, float]
    agreement: float
    tensors: int
    unstable: int
    least_stable: tuple[str, ...] = ()


class LintReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All findings, errors first.

    Attributes:
        images: calibration images that were looked at, those that would calibrate.
        evaluation_images: images that they were compared with; 0 where none are given.
        halves: None where it was not asked for.
    """

    schema: int = 1
    images: int
    evaluation_images: int
    findings: tuple[Finding, ...]
    skipped: tuple[Skipped, ...] = ()
    halves: HalvesOutcome | None = None

    @property
    def errors(self) -> int:
        return sum(finding.severity is Severity.ERROR for finding in self.findings)

    @property
    def warnings(self) -> int:
        return len(self.findings) - self.errors

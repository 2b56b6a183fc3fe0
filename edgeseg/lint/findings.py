"""What a lint says. Everything here goes to JSON and back with msgspec."""

from __future__ import annotations

from enum import StrEnum

import msgspec

__all__ = ["Code", "Figure", "Finding", "LintReport", "Severity", "Skipped"]


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


class LintReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All findings, errors first.

    Attributes:
        images: calibration images that were looked at, those that would calibrate.
        evaluation_images: images that they were compared with; 0 where none are given.
    """

    schema: int = 1
    images: int
    evaluation_images: int
    findings: tuple[Finding, ...]
    skipped: tuple[Skipped, ...] = ()

    @property
    def errors(self) -> int:
        return sum(finding.severity is Severity.ERROR for finding in self.findings)

    @property
    def warnings(self) -> int:
        return len(self.findings) - self.errors

"""Findings about a calibration set: what would spoil its ranges, or the proof made with them."""

from edgeseg.lint.findings import Code, Figure, Finding, LintReport, Severity, Skipped
from edgeseg.lint.linting import lint_calibration
from edgeseg.lint.pictures import Picture, calibration_pictures, open_judged
from edgeseg.lint.stability import ActivationStability, TensorShift, activation_stability, range_shift

__all__ = [
    "ActivationStability",
    "Code",
    "Figure",
    "Finding",
    "LintReport",
    "Picture",
    "Severity",
    "Skipped",
    "TensorShift",
    "activation_stability",
    "calibration_pictures",
    "lint_calibration",
    "open_judged",
    "range_shift",
]

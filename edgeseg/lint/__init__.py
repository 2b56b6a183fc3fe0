"""Findings about a calibration set: what would spoil its ranges, or the proof made with them."""

from edgeseg.lint.findings import Code, Figure, Finding, HalvesOutcome, LintReport, Severity, Skipped
from edgeseg.lint.linting import lint_calibration
from edgeseg.lint.pictures import Picture, calibration_pictures, open_judged
from edgeseg.lint.stability import ActivationStability, TensorShift, activation_stability, range_shift, with_halves

__all__ = [
    "ActivationStability",
    "Code",
    "Figure",
    "Finding",
    "HalvesOutcome",
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
    "with_halves",
]

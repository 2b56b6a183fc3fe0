"""The gate: rules as text, three outcomes, each with its interval."""

from edgeseg.gate.baseline import Baseline, read_baseline, write_baseline
from edgeseg.gate.decide import GateInputs, decide
from edgeseg.gate.rules import Rule, parse_rule, parse_rules
from edgeseg.gate.verdict import EXIT_INCONCLUSIVE, Finding, GateResult, InconclusivePolicy, Outcome, TimedFile

__all__ = [
    "EXIT_INCONCLUSIVE",
    "Baseline",
    "Finding",
    "GateInputs",
    "GateResult",
    "InconclusivePolicy",
    "Outcome",
    "Rule",
    "TimedFile",
    "decide",
    "parse_rule",
    "parse_rules",
    "read_baseline",
    "write_baseline",
]

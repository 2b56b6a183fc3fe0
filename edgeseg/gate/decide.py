"""From evidence to outcomes.

A rule passes only where the whole interval of its figure is within the limit and fails only where the whole interval is beyond
it. At 95 % confidence a candidate that is exactly at the limit fails in at most 2.5 % of data sets; one that is as good as the
reference practically never does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from edgeseg.bench.memory import MemoryUse
from edgeseg.bench.statistics import Ratio
from edgeseg.errors import UsageError
from edgeseg.gate.rules import Rule, RuleKind, Unit
from edgeseg.gate.verdict import Finding, GateResult, Outcome
from edgeseg.interval import Interval
from edgeseg.metrics.bootstrap import MIN_IMAGES
from edgeseg.metrics.evidence import DICE, FIRST_CLASS, MIOU, PIXEL_ACCURACY, Delta, Evidence

__all__ = ["GateInputs", "decide"]


Known = TypeVar("Known")


@dataclass(frozen=True)
class GateInputs:
    """What was measured; a rule whose part is missing is an error, never a pass.

    Attributes:
        evidence: counts of reference (or baseline) and candidate.
        latency: candidate / base of ``invoke``, from one run of the benchmark.
        file_bytes: of the candidate.
        base_bytes: of the base.
        memory: of the candidate.
    """

    evidence: Evidence | None = None
    latency: Ratio | None = None
    file_bytes: int | None = None
    base_bytes: int | None = None
    memory: MemoryUse | None = None


def decide(rules: Sequence[Rule], inputs: GateInputs, *, candidate: str, against: str, confidence: float = 0.95) -> GateResult:
    """Judge every rule.

    Raises:
        UsageError: no rule, a rule about something that was not measured, or about a class that does not exist.
    """
    if not rules:
        raise UsageError("The gate has no rule.", hint="Give at least one, for example --rule miou:-0.5pt.")
    return GateResult(
        candidate=candidate,
        against=against,
        findings=tuple(_judge(rule, inputs, confidence) for rule in rules),
        images=inputs.evidence.images if inputs.evidence is not None else None,
        rounds=inputs.latency.rounds if inputs.latency is not None else None,
        confidence=confidence,
    )


def _judge(rule: Rule, inputs: GateInputs, confidence: float) -> Finding:
    if rule.kind.is_timing:
        return _timing(rule, _required(inputs.latency, rule, "a benchmark of both in the same run"))
    if rule.kind is RuleKind.SIZE:
        size = float(_required(inputs.file_bytes, rule, "the candidate's file"))
        if rule.unit is Unit.RATIO:
            size /= _required(inputs.base_bytes, rule, "the base's file")
        return _exact(rule, size)
    if rule.kind is RuleKind.MEMORY:
        return _exact(rule, _required(inputs.memory, rule, "a memory measurement").peak_over_interpreter)
    evidence = _required(inputs.evidence, rule, "an evaluation of both on the same images")
    if rule.kind is RuleKind.WORST_CLASS:
        return _worst_class(rule, evidence, confidence)
    return _quality(rule, evidence, confidence)


def _required(value: Known | None, rule: Rule, what: str) -> Known:
    if value is None:
        raise UsageError(f"The rule '{rule.text}' needs {what}, and there is none.", hint="Measure it, or drop the rule.")
    return value


def _exact(rule: Rule, measured: float) -> Finding:
    within = measured <= rule.limit
    return Finding(
        rule=rule,
        outcome=Outcome.PASS if within else Outcome.FAIL,
        measured=measured,
        interval=None,
        reason=f"{_show(measured, rule.unit)} is {'within' if within else 'above'} {_show(rule.limit, rule.unit)}.",
    )


def _timing(rule: Rule, latency: Ratio) -> Finding:
    value = latency.value
    if rule.kind is RuleKind.SPEEDUP:
        value = Interval(estimate=1 / value.estimate, low=1 / value.high, high=1 / value.low, confidence=value.confidence)
    return _from_interval(rule, value, latency.rounds, "rounds", lower_is_worse=rule.kind is RuleKind.SPEEDUP)


def _quality(rule: Rule, evidence: Evidence, confidence: float) -> Finding:
    delta = _delta(rule, evidence, confidence)
    if delta.interval is None:
        return _undecidable(rule, delta, evidence)
    return _from_interval(rule, delta.interval, evidence.images, "images", lower_is_worse=True)


def _delta(rule: Rule, evidence: Evidence, confidence: float) -> Delta:
    if rule.kind in {RuleKind.BOUNDARY, RuleKind.BOUNDARY_F}:
        return evidence.boundary_delta(int(rule.kind is RuleKind.BOUNDARY_F), confidence)
    if rule.kind is RuleKind.SMALL_OBJECTS:
        return evidence.small_object_delta(confidence)
    if rule.kind is RuleKind.CLASS:
        names = evidence.reference.settings.classes
        if rule.class_name not in names:
            raise UsageError(
                f"The rule '{rule.text}' is about a class that does not exist.", hint=f"There are: {', '.join(names)}."
            )
        return evidence.delta(FIRST_CLASS + names.index(rule.class_name), confidence)
    figure = {RuleKind.MIOU: MIOU, RuleKind.DICE: DICE, RuleKind.ACCURACY: PIXEL_ACCURACY}[rule.kind]
    return evidence.delta(figure, confidence)


def _undecidable(rule: Rule, delta: Delta, evidence: Evidence, subject: str = "") -> Finding:
    undefined = math.isnan(delta.change)
    return Finding(
        rule=rule,
        outcome=Outcome.INCONCLUSIVE,
        measured=None if undefined else delta.change,
        interval=None,
        reason=f"{subject or 'This figure'} is in fewer than {MIN_IMAGES} of {evidence.images} images: too few to judge.",
        needed=None,
        subject=subject,
    )


def _worst_class(rule: Rule, evidence: Evidence, confidence: float) -> Finding:
    """The rule holds for every class. It fails where one class is surely beyond the limit, the level divided by the number of
    classes (Bonferroni), so that many classes do not fail by chance; it passes where every class is within it, which needs no
    correction (an intersection-union test; Berger 1982). A class in too few images makes it inconclusive only if its own figure is
    beyond the limit."""
    names = evidence.reference.settings.classes
    strict = 1.0 - (1.0 - confidence) / len(names)
    findings = []
    skipped = []
    for c, name in enumerate(names):
        delta = evidence.delta(FIRST_CLASS + c, confidence)
        if math.isnan(delta.change):
            continue
        if delta.interval is None:
            if delta.change < rule.limit:
                findings.append(_undecidable(rule, delta, evidence, name))
            else:
                skipped.append(name)
            continue
        finding = _from_interval(rule, delta.interval, evidence.images, "images", lower_is_worse=True, subject=name)
        if finding.outcome is Outcome.FAIL:
            wide = evidence.delta(FIRST_CLASS + c, strict).interval
            if wide is not None:
                finding = _from_interval(rule, wide, evidence.images, "images", lower_is_worse=True, subject=name)
        findings.append(finding)
    if not findings:
        return Finding(
            rule=rule,
            outcome=Outcome.INCONCLUSIVE,
            measured=None,
            interval=None,
            reason=f"No class is in at least {MIN_IMAGES} images: too few to judge.",
        )
    severity = {Outcome.FAIL: 0, Outcome.INCONCLUSIVE: 1, Outcome.PASS: 2}
    worst = min(findings, key=lambda finding: (severity[finding.outcome], finding.measured or 0.0))
    if not skipped:
        return worst
    note = f" Not judged, in fewer than {MIN_IMAGES} images: {', '.join(skipped)}."
    return msgspec.structs.replace(worst, reason=worst.reason + note)


def _from_interval(rule: Rule, value: Interval, count: int, what: str, *, lower_is_worse: bool, subject: str = "") -> Finding:
    """Compare an interval with the limit. Values at the limit are within it."""
    if lower_is_worse:
        within, beyond = value.low >= rule.limit, value.high < rule.limit
    else:
        within, beyond = value.high <= rule.limit, value.low > rule.limit
    outcome = Outcome.PASS if within else Outcome.FAIL if beyond else Outcome.INCONCLUSIVE
    needed = _needed(value, rule.limit, count) if outcome is Outcome.INCONCLUSIVE else None
    words = {Outcome.PASS: "within", Outcome.FAIL: "beyond", Outcome.INCONCLUSIVE: "not clearly on one side of"}
    reason = (
        f"{subject + ': ' if subject else ''}{_show(value.estimate, rule.unit)} "
        f"[{_show(value.low, rule.unit)}, {_show(value.high, rule.unit)}] is {words[outcome]} {_show(rule.limit, rule.unit)}"
    )
    if outcome is Outcome.INCONCLUSIVE:
        reason += f"; about {needed} {what} would decide it" if needed else f"; no number of {what} would decide it soon"
    return Finding(
        rule=rule,
        outcome=outcome,
        measured=value.estimate,
        interval=value,
        reason=reason + ".",
        needed=needed,
        needed_what=what if needed else "",
        subject=subject,
    )


_MOST_NEEDED = 100


def _needed(value: Interval, limit: float, count: int) -> int | None:
    """An interval's width falls with the square root of the number; the number at which the limit drops out of it, if the estimate
    stays. None where that is more than a hundred times what there is."""
    reach = value.estimate - value.low if limit < value.estimate else value.high - value.estimate
    distance = abs(value.estimate - limit)
    if distance == 0.0 or (reach / distance) ** 2 > _MOST_NEEDED:
        return None
    return max(count + 1, math.ceil(count * (reach / distance) ** 2))


def _show(value: float, unit: Unit) -> str:
    if unit is Unit.CHANGE:
        return f"{100.0 * value:+z.2f} pt"
    if unit is Unit.RATIO:
        return f"{value:.3f}x"
    return f"{value / 1e6:.3f} MB"

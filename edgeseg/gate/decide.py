"""From evidence to outcomes.

A rule passes only where the whole interval of its figure is within the limit and fails only where the whole interval is beyond
it. Rules that are judged together are corrected for their number (Holm 1979, A simple sequentially rejective multiple test
procedure, Scandinavian Journal of Statistics 6): however many they are, the chance that a gate fails although every figure is at
its limit or better is half of 1 - confidence, 2.5 % at 95 %. A candidate that is as good as the reference practically never fails.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from edgeseg.bench.machine import MachineFacts
from edgeseg.bench.memory import MemoryUse
from edgeseg.bench.statistics import PairedRuns, block_count, student_over_normal
from edgeseg.errors import UsageError
from edgeseg.gate.claims import Claim, Levels, Test, show
from edgeseg.gate.rules import Rule, RuleKind, Unit
from edgeseg.gate.verdict import Finding, GateResult, Outcome, TimedFile
from edgeseg.interval import Interval
from edgeseg.metrics.bootstrap import MIN_IMAGES, Bootstrap, relative_width
from edgeseg.metrics.evidence import DICE, FIRST_CLASS, MIOU, PIXEL_ACCURACY, Evidence

__all__ = ["MIN_ROUNDS", "GateInputs", "check_classes", "decide"]

MIN_ROUNDS = 20
"""With fewer rounds than this the interval of a ratio rests on fewer than 7 blocks: latency is not judged."""

_LARGEST_FACTOR = 1000.0

Known = TypeVar("Known")


@dataclass(frozen=True)
class GateInputs:
    """What was measured; a rule whose part is missing is an error, never a pass.

    Attributes:
        evidence: counts of reference (or baseline) and candidate.
        latency: ``invoke`` of base and candidate, from one run of the benchmark.
        file_bytes: of the candidate.
        base_bytes: of the base.
        memory: of the candidate.
        machine: that measured.
        timed: what was timed, with how noisy it was.
    """

    evidence: Evidence | None = None
    latency: PairedRuns | None = None
    file_bytes: int | None = None
    base_bytes: int | None = None
    memory: MemoryUse | None = None
    machine: MachineFacts | None = None
    timed: tuple[TimedFile, ...] = ()


def decide(rules: Sequence[Rule], inputs: GateInputs, *, candidate: str, against: str, confidence: float = 0.95) -> GateResult:
    """Judge every rule.

    Raises:
        UsageError: no rule, a rule about something that was not measured, or about a class that does not exist.
    """
    if not rules:
        raise UsageError("The gate has no rule.", hint="Give at least one, for example --rule miou:-0.5pt.")
    judged = [_judge(rule, inputs) for rule in rules]
    return GateResult(
        candidate=candidate,
        against=against,
        findings=tuple(_together(judged, confidence)),
        images=inputs.evidence.images if inputs.evidence is not None else None,
        rounds=inputs.latency.rounds if inputs.latency is not None else None,
        confidence=confidence,
        machine=inputs.machine,
        timed=inputs.timed,
    )


def check_classes(rules: Sequence[Rule], classes: Sequence[str]) -> None:
    """Before anything is measured: do rules about one class name classes that exist?

    Raises:
        UsageError: one does not.
    """
    for rule in rules:
        if rule.kind is RuleKind.CLASS and rule.class_name not in classes:
            raise UsageError(
                f"The rule '{rule.text}' is about a class that does not exist.", hint=f"There are: {', '.join(classes)}."
            )


def _together(judged: Sequence[Finding | Test], confidence: float) -> list[Finding]:
    """Holm's procedure: of m tests those fail that fail at the level divided by m; the others are tested again at the level divided
    by how many they are, until none fails."""
    found: list[Finding | None] = [one if isinstance(one, Finding) else None for one in judged]
    tests = {place: one for place, one in enumerate(judged) if isinstance(one, Test)}
    levels = Levels(confidence, confidence)
    while tests:
        levels = Levels(confidence, 1.0 - (1.0 - confidence) / len(tests), len(tests))
        failures = {place: failure for place, test in tests.items() if (failure := test.failure(levels)) is not None}
        if not failures:
            break
        for place, failure in failures.items():
            found[place] = failure
            del tests[place]
    return [one if one is not None else tests[place].verdict(levels) for place, one in enumerate(found)]


def _judge(rule: Rule, inputs: GateInputs) -> Finding | Test:
    """An exact figure is a finding at once, and so is one that cannot be judged; the rest are tests."""
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
        return _worst_class(rule, evidence)
    found = _quality(rule, *_figure(rule, evidence), evidence.images)
    return Test(rule, (found,)) if isinstance(found, Claim) else found


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
        reason=f"{show(measured, rule.unit)} is {'within' if within else 'above'} {show(rule.limit, rule.unit)}.",
    )


def _timing(rule: Rule, latency: PairedRuns) -> Finding | Test:
    faster = rule.kind is RuleKind.SPEEDUP

    def interval(confidence: float) -> Interval:
        value = latency.ratio(confidence).value
        if not faster:
            return value
        # Noise may widen an interval down to 0, which has no reciprocal.
        low = max(value.low, value.estimate / _LARGEST_FACTOR)
        return Interval(estimate=1 / value.estimate, low=1 / value.high, high=1 / low, confidence=value.confidence)

    if latency.rounds < MIN_ROUNDS:
        measured = interval(0.95).estimate if latency.rounds > 1 else None
        return _undecided(
            rule,
            measured,
            f"{latency.rounds} rounds are too few to judge a time",
            MIN_ROUNDS,
            "rounds",
        )
    return Test(rule, (Claim(rule, interval, _timing_width, latency.rounds, "rounds", lower_is_worse=faster),))


def _timing_width(confidence: float, rounds: int) -> float:
    return student_over_normal(block_count(rounds) - 1, confidence) / math.sqrt(rounds)


def _figure(rule: Rule, evidence: Evidence) -> tuple[Bootstrap, int]:
    if rule.kind in {RuleKind.BOUNDARY, RuleKind.BOUNDARY_F}:
        return evidence.boundary, int(rule.kind is RuleKind.BOUNDARY_F)
    if rule.kind is RuleKind.SMALL_OBJECTS:
        return evidence.small_objects, 0
    if rule.class_name is not None:
        names = evidence.reference.settings.classes
        check_classes((rule,), names)
        return evidence.segmentation, FIRST_CLASS + names.index(rule.class_name)
    return evidence.segmentation, {RuleKind.MIOU: MIOU, RuleKind.DICE: DICE, RuleKind.ACCURACY: PIXEL_ACCURACY}[rule.kind]


def _quality(rule: Rule, found: Bootstrap, column: int, images: int, subject: str = "") -> Claim | Finding:
    change, informed = float(found.estimate[column]), int(found.support[column])
    first = found.interval(column)
    if first is None:
        return _undecided(
            rule,
            None if np.isnan(change) else change,
            f"{subject or 'This figure'} is in {informed} of {images} images: too few to judge",
            math.ceil(MIN_IMAGES * images / informed) if informed else None,
            "images",
            subject,
        )
    return Claim(
        rule,
        # What has an interval at one confidence has one at every other.
        lambda confidence: found.interval(column, confidence) or first,
        lambda confidence, count: relative_width(confidence, count * informed / images),
        images,
        "images",
        lower_is_worse=True,
        subject=subject,
    )


def _undecided(rule: Rule, measured: float | None, why: str, needed: int | None, what: str, subject: str = "") -> Finding:
    return Finding(
        rule=rule,
        outcome=Outcome.INCONCLUSIVE,
        measured=measured,
        interval=None,
        reason=f"{why}{f'; at least {needed} {what} are needed' if needed else ''}.",
        needed=needed,
        needed_what=what if needed else "",
        subject=subject,
    )


def _worst_class(rule: Rule, evidence: Evidence) -> Finding | Test:
    """The rule holds for every class: one that is surely beyond the limit fails it, and it passes where all are within. A class in
    too few images makes it inconclusive only if its own figure is beyond the limit."""
    claims, unclear, skipped = list[Claim](), list[Finding](), list[str]()
    for c, name in enumerate(evidence.reference.settings.classes):
        found = _quality(rule, evidence.segmentation, FIRST_CLASS + c, evidence.images, name)
        if isinstance(found, Claim):
            claims.append(found)
        elif found.measured is not None and found.measured < rule.limit:
            unclear.append(found)
        elif found.measured is not None:
            skipped.append(name)
    if not claims and not unclear:
        return _undecided(rule, None, f"No class is in at least {MIN_IMAGES} images: too few to judge", None, "")
    if not claims:
        return min(unclear, key=lambda one: one.measured or 0.0)
    note = f"Not judged, in fewer than {MIN_IMAGES} images: {_listed(skipped)}." if skipped else ""
    return Test(rule, tuple(claims), tuple(unclear), note)


def _listed(names: Sequence[str], most: int = 8) -> str:
    """The first few by name: of 150 classes the list would bury the verdict."""
    more = [f"{len(names) - most} others"] if len(names) > most else []
    return ", ".join((*names[:most], *more))

"""What a gate says. Everything here goes to JSON and back with msgspec."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from edgeseg.bench.machine import MachineFacts
from edgeseg.bench.noise import NoiseVerdict
from edgeseg.gate.rules import Rule
from edgeseg.interval import Interval

__all__ = ["EXIT_INCONCLUSIVE", "Finding", "GateResult", "InconclusivePolicy", "Outcome", "TimedFile"]

EXIT_INCONCLUSIVE = 5
"""Exit code of a gate that could not decide, unless the policy says that this is a pass or a fail."""


class Outcome(StrEnum):
    """PASS: the whole interval is within the limit. FAIL: the whole interval is beyond it. INCONCLUSIVE: the limit lies inside, or
    there is no interval."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


class InconclusivePolicy(StrEnum):
    """What an inconclusive gate counts as."""

    REPORT = "report"
    FAIL = "fail"
    PASS = "pass"


class Finding(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One rule's outcome.

    Attributes:
        measured: in the unit of the rule's limit; None where it could not be measured.
        interval: of ``measured``; None for an exact figure (a size) or where there is none.
        reason: one sentence for people.
        needed: how many images or rounds would decide it, if the figure stays where it is, or, where there are too few to judge at
            all, how many that takes; None where decided or unknown.
        needed_what: ``images`` or ``rounds``.
        subject: the class that ``worst_class`` is about.
    """

    rule: Rule
    outcome: Outcome
    measured: float | None
    interval: Interval | None
    reason: str
    needed: int | None = None
    needed_what: str = ""
    subject: str = ""


class TimedFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A file that was timed for the gate.

    Attributes:
        runtime: what ran it, with its version.
        threads: of the runtime.
        median_ns: of one run.
        noise: can its samples be trusted?
    """

    name: str
    runtime: str
    threads: int
    median_ns: float
    noise: NoiseVerdict


class GateResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All rules of one candidate.

    Attributes:
        against: what it was compared with.
        images, rounds: that were judged by; None where no rule asked for any.
        machine: that judged.
        timed: base and candidate, where a rule asked for times or memory.
    """

    candidate: str
    against: str
    findings: tuple[Finding, ...]
    images: int | None = None
    rounds: int | None = None
    confidence: float = 0.95
    machine: MachineFacts | None = None
    timed: tuple[TimedFile, ...] = ()
    schema: int = 2

    @property
    def advice(self) -> tuple[str, ...]:
        """What disturbed the times, and what to do about it, where a rule about time was not decided."""
        if all(finding.outcome is not Outcome.INCONCLUSIVE or not finding.rule.kind.is_timing for finding in self.findings):
            return ()
        return tuple(f"{one.name}: {found.what}. {found.advice}" for one in self.timed for found in one.noise.findings)

    @property
    def outcome(self) -> Outcome:
        """FAIL if any rule failed, else INCONCLUSIVE if any is, else PASS."""
        outcomes = {finding.outcome for finding in self.findings}
        for outcome in (Outcome.FAIL, Outcome.INCONCLUSIVE):
            if outcome in outcomes:
                return outcome
        return Outcome.PASS

    def exit_code(self, policy: InconclusivePolicy = InconclusivePolicy.REPORT) -> int:
        """0 pass, 3 fail, 5 inconclusive (0 or 3 by policy)."""
        if self.outcome is Outcome.INCONCLUSIVE:
            return {
                InconclusivePolicy.REPORT: EXIT_INCONCLUSIVE,
                InconclusivePolicy.FAIL: 3,
                InconclusivePolicy.PASS: 0,
            }[policy]
        return 3 if self.outcome is Outcome.FAIL else 0

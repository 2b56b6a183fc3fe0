"""A rule as a statistical test: its figure's interval at any confidence, the side of the limit it is on, and what would decide."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from edgeseg.gate.rules import Rule, Unit
from edgeseg.gate.verdict import Finding, Outcome
from edgeseg.interval import Interval

__all__ = ["Claim", "Levels", "Test", "finding", "show"]

_MOST_NEEDED = 100  # times what there is: more is no advice


@dataclass(frozen=True)
class Levels:
    """At what confidence a rule passes and fails.

    Attributes:
        passing: the gate's own. A gate passes only where all its rules do, so this needs no correction (an intersection-union
            test; Berger 1982, Multiparameter hypothesis testing and acceptance sampling).
        failing: raised, so that all rules together fail wrongly no more often than one alone would.
        tests: how many rules it was raised for.
    """

    passing: float
    failing: float
    tests: int = 1

    def among(self, claims: int) -> Levels:
        """For one of several claims, any of which fails the rule (Bonferroni)."""
        return Levels(self.passing, 1.0 - (1.0 - self.failing) / claims, self.tests * claims)


@dataclass(frozen=True)
class Claim:
    """One figure under a rule.

    Attributes:
        interval: of the figure, at a confidence.
        width: how wide an interval of a confidence is for a number of images or rounds, in any unit.
        count: how many there are.
        what: ``images`` or ``rounds``.
        lower_is_worse: as for a score; not for a time.
        subject: the class that it is about, where the rule is about several.
    """

    rule: Rule
    interval: Callable[[float], Interval]
    width: Callable[[float, int], float]
    count: int
    what: str
    lower_is_worse: bool
    subject: str = ""

    def passes(self, confidence: float) -> bool:
        """The whole interval is within the limit. Values at the limit are within it."""
        value, limit = self.interval(confidence), self.rule.limit
        return value.low >= limit if self.lower_is_worse else value.high <= limit

    def fails(self, confidence: float) -> bool:
        """The whole interval is beyond the limit."""
        value, limit = self.interval(confidence), self.rule.limit
        return value.high < limit if self.lower_is_worse else value.low > limit

    @property
    def looks_bad(self) -> bool:
        """The figure itself is beyond the limit: more data would rather fail the rule than pass it."""
        estimate = self.interval(0.5).estimate
        return estimate < self.rule.limit if self.lower_is_worse else estimate > self.rule.limit

    def needed(self, levels: Levels) -> int | None:
        """How many images or rounds would decide, if the figure and its spread stay as they are: the least number at which the
        interval no longer reaches the limit. None where that is more than a hundred times what there is."""
        confidence = levels.failing if self.looks_bad else levels.passing
        value, limit = self.interval(confidence), self.rule.limit
        distance = abs(value.estimate - limit)
        reach = value.estimate - value.low if limit < value.estimate else value.high - value.estimate
        per_width = reach / self.width(confidence, self.count)

        def decides(count: int) -> bool:
            return per_width * self.width(confidence, count) < distance

        low, high = self.count, _MOST_NEEDED * self.count
        if not decides(high):
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if decides(middle) else (middle, high)
        return high


@dataclass(frozen=True)
class Test:
    """A rule with all the claims that it makes; ``worst_class`` makes one for every class.

    Attributes:
        unclear: findings about classes that look bad in too few images to be sure.
        note: what was not judged.
    """

    rule: Rule
    claims: tuple[Claim, ...]
    unclear: tuple[Finding, ...] = ()
    note: str = ""

    def failure(self, levels: Levels) -> Finding | None:
        """The worst claim that fails; None where none does."""
        strict = levels.among(len(self.claims))
        failed = [claim for claim in self.claims if claim.fails(strict.failing)]
        if not failed:
            return None
        worst = max(failed, key=lambda claim: abs(claim.interval(strict.failing).estimate - claim.rule.limit))
        return self._noted(finding(worst, Outcome.FAIL, strict))

    def verdict(self, levels: Levels) -> Finding:
        """Pass or inconclusive, of a test that has not failed."""
        strict = levels.among(len(self.claims))
        open_claims = [claim for claim in self.claims if not claim.passes(levels.passing)]
        bad = [claim for claim in open_claims if claim.looks_bad]
        if self.unclear and not bad:
            return self._noted(max(self.unclear, key=lambda one: one.needed or math.inf))
        if open_claims:
            # The one that would fail first, where one looks bad; else the one that would pass last.
            most = min if bad else max
            deciding = most(bad or open_claims, key=lambda claim: claim.needed(strict) or math.inf)
            return self._noted(finding(deciding, Outcome.INCONCLUSIVE, strict))
        nearest = min(self.claims, key=lambda claim: _distance(claim, levels.passing))
        return self._noted(finding(nearest, Outcome.PASS, strict))

    def _noted(self, one: Finding) -> Finding:
        return msgspec.structs.replace(one, reason=f"{one.reason} {self.note}") if self.note else one


def _distance(claim: Claim, confidence: float) -> float:
    value = claim.interval(confidence)
    return value.low - claim.rule.limit if claim.lower_is_worse else claim.rule.limit - value.high


def finding(claim: Claim, outcome: Outcome, levels: Levels) -> Finding:
    """What is said about a claim. The interval is the one that decided, or that kept it from being decided."""
    rule = claim.rule
    strict = outcome is Outcome.FAIL or (outcome is Outcome.INCONCLUSIVE and claim.looks_bad)
    value = claim.interval(levels.failing if strict else levels.passing)
    needed = claim.needed(levels) if outcome is Outcome.INCONCLUSIVE else None
    words = {Outcome.PASS: "within", Outcome.FAIL: "beyond", Outcome.INCONCLUSIVE: "not clearly on one side of"}
    reason = (
        f"{claim.subject + ': ' if claim.subject else ''}{show(value.estimate, rule.unit)} "
        f"[{show(value.low, rule.unit)}, {show(value.high, rule.unit)}] is {words[outcome]} {show(rule.limit, rule.unit)}"
    )
    if outcome is Outcome.INCONCLUSIVE:
        count = f"about {needed}" if needed else "no number of"
        reason += f"; {count} {claim.what} would decide it{'' if needed else ' soon'}"
    if strict and levels.tests > 1:
        reason += f" ({100 * levels.failing:.4g} % interval, for {levels.tests} figures are judged together)"
    return Finding(
        rule=rule,
        outcome=outcome,
        measured=value.estimate,
        interval=value,
        reason=reason + ".",
        needed=needed,
        needed_what=claim.what if needed else "",
        subject=claim.subject,
    )


def show(value: float, unit: Unit) -> str:
    """A figure for people, in its unit."""
    if unit is Unit.CHANGE:
        return f"{100.0 * value:+z.2f} pt"
    if unit is Unit.RATIO:
        return f"{value:.3f}x"
    return f"{value / 1e6:.3f} MB"

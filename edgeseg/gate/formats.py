"""A gate's result for machines and for people: JSON, JUnit XML, Markdown."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import msgspec

from edgeseg.bench.machine import MachineFacts
from edgeseg.gate.verdict import Finding, GateResult, InconclusivePolicy, Outcome, TimedFile

__all__ = ["BaselineNote", "to_json", "to_junit", "to_markdown"]

_SIGNS = {Outcome.PASS: "✅ pass", Outcome.FAIL: "❌ fail", Outcome.INCONCLUSIVE: "❔ inconclusive"}
# Characters that XML 1.0 cannot hold at all (section 2.2, production 2).
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class BaselineNote(msgspec.Struct, frozen=True, kw_only=True):
    """What ``--update-baseline`` did. ``written``: False where a rule kept the file from it. ``miou``: a fraction."""

    path: str
    written: bool
    name: str
    miou: float | None


class _Summary(msgspec.Struct, frozen=True, kw_only=True):
    """``GateResult`` with what follows from it. ``outcome`` is null where nothing was judged: a baseline was written, and there was
    no rule."""

    schema: int
    outcome: Outcome | None
    candidate: str
    against: str | None
    confidence: float
    images: int | None
    rounds: int | None
    findings: tuple[Finding, ...]
    advice: tuple[str, ...]
    machine: MachineFacts | None
    timed: tuple[TimedFile, ...]
    baseline: BaselineNote | None


def to_json(result: GateResult, baseline: BaselineNote | None = None) -> bytes:
    """One JSON object. Limits and figures are fractions, ratios or bytes, as each rule's ``unit`` says."""
    summary = _Summary(
        schema=result.schema,
        outcome=result.outcome if result.findings else None,
        candidate=result.candidate,
        against=result.against or None,
        confidence=result.confidence,
        images=result.images,
        rounds=result.rounds,
        findings=result.findings,
        advice=result.advice,
        machine=result.machine,
        timed=result.timed,
        baseline=baseline,
    )
    return msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n"


def to_junit(result: GateResult, policy: InconclusivePolicy = InconclusivePolicy.REPORT) -> bytes:
    """JUnit XML: one test case a rule. An inconclusive rule is a failure where the policy says fail, else skipped."""
    failing = {Outcome.FAIL} | ({Outcome.INCONCLUSIVE} if policy is InconclusivePolicy.FAIL else set())
    skipping = {Outcome.INCONCLUSIVE} if policy is InconclusivePolicy.REPORT else set()
    failures = sum(finding.outcome in failing for finding in result.findings)
    skipped = sum(finding.outcome in skipping for finding in result.findings)
    counts = {"tests": str(len(result.findings)), "failures": str(failures), "errors": "0", "skipped": str(skipped)}
    suites = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(suites, "testsuite", {"name": "edgeseg gate", **counts})
    for finding in result.findings:
        case = ElementTree.SubElement(suite, "testcase", {"classname": _xml(result.candidate), "name": _xml(finding.rule.text)})
        if finding.outcome in failing:
            ElementTree.SubElement(case, "failure", {"message": _xml(finding.reason), "type": finding.outcome.value})
        elif finding.outcome in skipping:
            ElementTree.SubElement(case, "skipped", {"message": _xml(finding.reason)})
        else:
            ElementTree.SubElement(case, "system-out").text = _xml(finding.reason)
    ElementTree.indent(suites)
    document: bytes = ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


def to_markdown(result: GateResult) -> str:
    """A heading and a table, for a step summary or a comment."""
    basis = [f"{result.images} images"] if result.images is not None else []
    basis += [f"{result.rounds} rounds"] if result.rounds is not None else []
    lines = [
        f"### edgeseg gate: {_SIGNS[result.outcome]}",
        "",
        f"`{_cell(result.candidate)}` against `{_cell(result.against)}`"
        + (f", {', '.join(basis)}, {result.confidence:.0%} intervals" if basis else ""),
        "",
        "| rule | outcome | figure |",
        "|---|---|---|",
    ]
    lines += [
        f"| `{_cell(finding.rule.text)}` | {_SIGNS[finding.outcome]} | {_cell(finding.reason)} |" for finding in result.findings
    ]
    lines += [f"\n{_cell(line)}" for line in result.advice]
    return "\n".join(lines) + "\n"


def _xml(text: str) -> str:
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")

"""The fixture ``edgeseg_gate``: a gate as a test of the user's repository.

::

    def test_may_ship(edgeseg_gate):
        edgeseg_gate("build/model-tflite-int8", "miou:-0.5pt", "size:4MB")
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from edgeseg.gate.verdict import GateResult

__all__ = ["edgeseg_gate"]

_POLICIES = ("skip", "fail", "pass")


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--edgeseg-inconclusive``."""
    parser.getgroup("edgeseg").addoption(
        "--edgeseg-inconclusive",
        choices=_POLICIES,
        default="skip",
        help="what a gate that cannot decide is (default: skip, with the reason)",
    )


@pytest.fixture
def edgeseg_gate(request: pytest.FixtureRequest) -> Callable[..., GateResult]:
    """``edgeseg_gate(subject, *rules, against=None, baseline=None, spec=None, images=None, masks=None, regions=None, limit=None,
    threads=1, budget=10.0, rounds=50, confidence=0.95, inconclusive=None)``.

    Rules, subjects, the other arguments and their defaults are those of ``edgeseg gate``; relative paths start from pytest's root
    folder. The test fails where a rule is broken, or where the gate cannot be asked at all; it is skipped where the data cannot
    decide (``--edgeseg-inconclusive``, or ``inconclusive`` for one gate).
    """
    root = request.config.rootpath
    default = request.config.getoption("--edgeseg-inconclusive")

    def judge(
        subject: str | Path,
        *rules: str,
        against: str | Path | None = None,
        baseline: str | Path | None = None,
        spec: str | Path | None = None,
        images: str | Path | None = None,
        masks: str | Path | None = None,
        regions: str | Path | None = None,
        limit: int | None = None,
        threads: int = 1,
        budget: float = 10.0,
        rounds: int = 50,
        confidence: float = 0.95,
        inconclusive: str | None = None,
    ) -> GateResult:
        from edgeseg.bench import BenchSettings
        from edgeseg.benching import BenchOptions
        from edgeseg.drifting import DriftOptions
        from edgeseg.errors import EdgesegError
        from edgeseg.gate.verdict import Outcome
        from edgeseg.gating import GateOptions, gate, rules_of

        policy = inconclusive or default
        if policy not in _POLICIES:
            pytest.fail(f"edgeseg_gate: inconclusive is '{policy}', it must be one of {', '.join(_POLICIES)}.", pytrace=False)

        def place(path: str | Path | None) -> Path | None:
            return None if path is None else root / path

        def text(path: str | Path | None) -> str | None:
            return None if path is None else str(root / path)

        refusal = None
        try:
            result = gate(
                root / subject,
                rules or rules_of(root / subject, place(spec)),
                GateOptions(
                    spec=place(spec),
                    against=place(against),
                    baseline=place(baseline),
                    drift=DriftOptions(
                        images=text(images),
                        masks=text(masks),
                        regions=text(regions),
                        limit=limit,
                        threads=threads,
                        confidence=confidence,
                    ),
                    bench=BenchOptions(
                        threads=(threads,),
                        settings=BenchSettings(budget_seconds=budget, min_rounds=rounds, max_rounds=max(rounds, 500)),
                    ),
                ),
            )
        except EdgesegError as error:
            refusal = error
        if refusal is not None:  # not above: pytest would tell the same twice, as an exception during another
            pytest.fail(f"edgeseg: {refusal}", pytrace=False)
        told = "\n".join(
            f"{finding.outcome.value:12} {finding.rule.text}: {finding.reason}"
            for finding in result.findings
            if finding.outcome is not Outcome.PASS
        )
        said = "\n".join((f"{result.candidate} against {result.against}", told, *result.advice))
        if result.outcome is Outcome.FAIL or (result.outcome is Outcome.INCONCLUSIVE and policy == "fail"):
            pytest.fail(said, pytrace=False)
        if result.outcome is Outcome.INCONCLUSIVE and policy == "skip":
            pytest.skip(said)
        return result

    return judge

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


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--edgeseg-inconclusive``."""
    parser.getgroup("edgeseg").addoption(
        "--edgeseg-inconclusive",
        choices=("skip", "fail", "pass"),
        default="skip",
        help="what a gate that cannot decide is (default: skip, with the reason)",
    )


@pytest.fixture
def edgeseg_gate(request: pytest.FixtureRequest) -> Callable[..., GateResult]:
    """``edgeseg_gate(subject, *rules, against=None, baseline=None, spec=None, limit=None)``.

    Rules and subjects are those of ``edgeseg gate``; relative paths start from pytest's root folder. The test fails where a rule is
    broken, and is skipped where the data cannot decide (``--edgeseg-inconclusive``).
    """
    root = request.config.rootpath
    policy = request.config.getoption("--edgeseg-inconclusive")

    def judge(
        subject: str | Path,
        *rules: str,
        against: str | Path | None = None,
        baseline: str | Path | None = None,
        spec: str | Path | None = None,
        limit: int | None = None,
    ) -> GateResult:
        from edgeseg.drifting import DriftOptions
        from edgeseg.gate.verdict import Outcome
        from edgeseg.gating import GateOptions, gate, rules_of

        def place(path: str | Path | None) -> Path | None:
            return None if path is None else root / path

        result = gate(
            root / subject,
            rules or rules_of(root / subject, place(spec)),
            GateOptions(spec=place(spec), against=place(against), baseline=place(baseline), drift=DriftOptions(limit=limit)),
        )
        told = "\n".join(
            f"{finding.outcome.value:12} {finding.rule.text}: {finding.reason}"
            for finding in result.findings
            if finding.outcome is not Outcome.PASS
        )
        said = f"{result.candidate} against {result.against}\n{told}"
        if result.outcome is Outcome.FAIL or (result.outcome is Outcome.INCONCLUSIVE and policy == "fail"):
            pytest.fail(said, pytrace=False)
        if result.outcome is Outcome.INCONCLUSIVE and policy == "skip":
            pytest.skip(said)
        return result

    return judge

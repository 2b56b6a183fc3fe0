"""Runs the real command in a child process, and says what a good refusal looks like."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

# -P keeps the current folder off the import path, as it is for the installed console script.
COMMAND = (sys.executable, "-P", "-m", "edgeseg")


@dataclass(frozen=True)
class Outcome:
    """What a finished command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """stderr with its line breaks taken out, for looking up phrases."""
        return " ".join(self.err.split())

    def document(self) -> object:
        """stdout as the one JSON document that ``--json`` prints."""
        return json.loads(self.out)


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The child's environment: one thread; a PYTHONPATH in ``extra`` goes before the one there is."""
    extra = dict(extra or {})
    if "PYTHONPATH" in extra and os.environ.get("PYTHONPATH"):
        extra["PYTHONPATH"] += os.pathsep + os.environ["PYTHONPATH"]
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "COV_", "_EDGESEG"))}
    return {**inherited, "OMP_NUM_THREADS": "1", **extra}


def edgeseg(
    *arguments: str | Path,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    preexec: Callable[[], None] | None = None,
) -> Outcome:
    """Run ``edgeseg ARGUMENTS`` in ``cwd``."""
    done = subprocess.run(
        [*COMMAND, *(str(argument) for argument in arguments)],
        cwd=cwd,
        env=environment(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        preexec_fn=preexec,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def refused(outcome: Outcome, code: int, *phrases: str) -> None:
    """One paragraph on stderr with every phrase, no traceback, nothing on stdout, the right exit code."""
    assert outcome.code == code, outcome
    assert "Traceback" not in outcome.err, outcome.err
    assert outcome.out == ""
    assert outcome.err.startswith("edgeseg: "), outcome.err
    assert outcome.err.endswith("\n")
    assert "\n\n" not in outcome.err, f"more than one paragraph:\n{outcome.err}"
    for phrase in phrases:
        assert phrase in outcome.said, f"{phrase!r} is not in: {outcome.said}"


def files_below(folder: Path) -> list[str]:
    """Every file in a folder, hidden ones included; empty where there is no folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())

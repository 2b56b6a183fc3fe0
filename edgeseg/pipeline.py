"""The chain: stages that say what they take and give, run one after the other, each checked against the one before.

A stage turns one file into the next. ``Pipeline`` refuses neighbours that do not fit when it is composed, runs each stage,
has its output compared with the stage before, and keeps each stage's figures.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from edgeseg.artifact import AgreementRecord, SpeedRecord, StageRecord
from edgeseg.errors import CheckFailed
from edgeseg.graph import Format, Graph
from edgeseg.resident import peak_bytes
from edgeseg.session import TensorInfo

__all__ = ["OUT_OF_TIME", "Check", "Outcome", "Pipeline", "Progress", "Stage", "TensorInfo", "peak_mb"]

Progress = Callable[[str], None]

OUT_OF_TIME = "time ran out"
"""Begins each note of a stage whose search was cut short by its time limit."""


def peak_mb() -> float:
    """Highest resident memory of this process so far, MiB."""
    return peak_bytes() / 2**20


@dataclass(frozen=True)
class Outcome:
    """What a stage gives: the graph, what it has to say about it, the peak memory of a child that did the work, and how fast the
    graph is where the stage measured that."""

    graph: Graph
    notes: tuple[str, ...] = ()
    child_peak_mb: float = 0.0
    speed: SpeedRecord | None = None


class Stage(Protocol):
    """``takes`` is the format of the graph it is given, None for the first stage, which starts from the model."""

    @property
    def name(self) -> str: ...

    @property
    def takes(self) -> Format | None: ...

    @property
    def gives(self) -> Format: ...

    def run(self, graph: Graph | None, work: Path) -> Outcome: ...


class Check(Protocol):
    """Compares a stage's output with the stage before it. Raises CheckFailed where it is below the stage's floor."""

    def __call__(self, stage: Stage, before: Graph | None, after: Graph) -> AgreementRecord: ...


@dataclass
class Pipeline:
    """Stages in order. ``records`` fills as they run, so that a failed compile can still say how far it came.

    Raises:
        ValueError: neighbouring stages do not fit (a mistake in the program, not in the user's input).
    """

    stages: Sequence[Stage]
    check: Check
    progress: Progress = lambda _: None
    records: list[StageRecord] = field(default_factory=list)

    def __post_init__(self) -> None:
        given: Format | None = None
        for stage in self.stages:
            if stage.takes is not given:
                raise ValueError(f"stage '{stage.name}' takes {stage.takes}, but is given {given}")
            given = stage.gives

    def run(self, work: Path) -> Graph:
        """Run every stage in ``work`` and return the last graph."""
        graph: Graph | None = None
        for stage in self.stages:
            self.progress(stage.name)
            started = time.monotonic()
            outcome = stage.run(graph, work)
            agreement = self._checked(stage, graph, outcome)
            self.records.append(
                StageRecord(
                    name=stage.name,
                    seconds=round(time.monotonic() - started, 3),
                    peak_mb=round(max(peak_mb(), outcome.child_peak_mb), 1),
                    notes=outcome.notes,
                    agreement=agreement,
                    speed=outcome.speed,
                )
            )
            graph = outcome.graph
        if graph is None:
            raise ValueError("a pipeline needs at least one stage")
        return graph

    def _checked(self, stage: Stage, before: Graph | None, outcome: Outcome) -> AgreementRecord:
        """Where the check fails after a search that was cut short, more time is the first remedy."""
        try:
            return self.check(stage, before, outcome.graph)
        except CheckFailed as error:
            cut = next((note for note in outcome.notes if note.startswith(OUT_OF_TIME)), None)
            if cut is not None:
                error.hint = f"Give a longer --time-limit: {cut}. {error.hint}"
            raise

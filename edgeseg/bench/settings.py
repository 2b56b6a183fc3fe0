"""How long and how often to measure."""

from __future__ import annotations

import msgspec

from edgeseg.errors import UsageError

__all__ = ["BenchSettings"]


class BenchSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Measuring goes in rounds. In a round every candidate has one turn, in the order given: A B C, A B C, ...

    A turn is ``lead_in`` runs that are not timed and ``runs_per_turn`` runs that are. The lead-in matters: worker threads of
    the candidate before spin for up to milliseconds after their last run and would slow down the first run of this one. It is
    left out where there is one candidate only.

    Attributes:
        budget_seconds: rounds go on until this much time has passed since the first round ...
        min_rounds: ... and at least this many were run ...
        max_rounds: ... but never more than this.
        warmup_window: the warm-up of a candidate ends when the medians of its last two windows of this many runs differ by
            less than ``warmup_tolerance`` (a fraction) ...
        warmup_seconds: ... or when it has lasted this long.
        cpus: logical CPUs to pin the process to; empty: one a thread, chosen by ``edgeseg.bench.affinity``.
        threads: how many CPUs to pin to where ``cpus`` is empty. The sessions themselves are opened by the caller.
        memory: measure peak memory, each candidate in a process of its own.
        confidence: of the intervals.
        resamples: bootstrap resamples.
        seed: of the bootstrap.
    """

    budget_seconds: float = 5.0
    min_rounds: int = 20
    max_rounds: int = 500
    runs_per_turn: int = 1
    lead_in: int = 1
    warmup_window: int = 5
    warmup_tolerance: float = 0.05
    warmup_seconds: float = 3.0
    threads: int = 1
    cpus: tuple[int, ...] = ()
    memory: bool = False
    confidence: float = 0.95
    resamples: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        positive = ("min_rounds", "max_rounds", "runs_per_turn", "warmup_window", "threads", "resamples")
        for name in positive:
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}, it must be at least 1.", hint="Give a larger number.")
        if self.max_rounds < self.min_rounds:
            raise UsageError(
                f"max_rounds ({self.max_rounds}) is below min_rounds ({self.min_rounds}).", hint="Raise max_rounds."
            )
        if not 0.5 <= self.confidence < 1.0:
            raise UsageError(f"confidence is {self.confidence}, it must be in 0.5..1.", hint="0.95 is usual.")

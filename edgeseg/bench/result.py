"""What a benchmark gives. Everything here goes to JSON and back with msgspec."""

from __future__ import annotations

import msgspec

from edgeseg.bench.energy import EnergyUse
from edgeseg.bench.load import LoadShare
from edgeseg.bench.machine import MachineFacts
from edgeseg.bench.memory import MemoryUse
from edgeseg.bench.noise import NoiseVerdict
from edgeseg.bench.profile import Placement, Profile
from edgeseg.bench.settings import BenchSettings
from edgeseg.bench.statistics import PairedRuns, Ratio, Summary
from edgeseg.session import SessionInfo

__all__ = ["BenchResult", "CandidateFacts", "CandidateResult", "Comparison", "Sample", "Samples"]


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One timed run, nanoseconds a phase. ``preprocess`` and ``postprocess`` are 0 where the candidate has none."""

    feed: int
    invoke: int
    fetch: int
    preprocess: int = 0
    postprocess: int = 0

    @property
    def total(self) -> int:
        return self.preprocess + self.feed + self.invoke + self.fetch + self.postprocess


class Samples(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All timed runs of one candidate in the order measured, nanoseconds, one tuple a phase.

    ``runs_per_turn`` neighbours belong to one round. ``preprocess`` and ``postprocess`` are empty where there are none.
    ``device``: as many further runs, timed by the GPU's own clock; empty on a CPU.
    """

    feed: tuple[int, ...]
    invoke: tuple[int, ...]
    fetch: tuple[int, ...]
    preprocess: tuple[int, ...] = ()
    postprocess: tuple[int, ...] = ()
    device: tuple[int, ...] = ()
    runs_per_turn: int = 1

    @property
    def total(self) -> tuple[int, ...]:
        phases = (self.preprocess, self.feed, self.invoke, self.fetch, self.postprocess)
        return tuple(map(sum, zip(*(phase for phase in phases if phase), strict=True)))

    @property
    def rounds(self) -> int:
        return len(self.invoke) // self.runs_per_turn


class CandidateFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Known before the first round.

    Attributes:
        load_seconds: opening the session.
        warmup_ns: total time of each warm-up run.
        fed: what every run was fed: a picture's name, or noise and why.
        placement: None where the runtime does not tell.
        device_clock: what the samples of the device's own clock were taken by; empty on a CPU.
    """

    name: str
    info: SessionInfo
    file_bytes: int | None
    load_seconds: float
    warmup_ns: tuple[int, ...]
    warmup_stable: bool
    memory: MemoryUse | None = None
    fed: str = ""
    placement: Placement | None = None
    device_clock: str = ""


class CandidateResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One candidate: raw samples and what follows from them. ``invoke`` is the file's latency by the host's clock, ``total`` all
    phases, ``device`` the latency by the GPU's clock; ``profile`` is there where it was asked for and the runtime gives one."""

    facts: CandidateFacts
    samples: Samples
    feed: Summary
    invoke: Summary
    fetch: Summary
    total: Summary
    noise: NoiseVerdict
    energy: EnergyUse
    device: Summary | None = None
    profile: Profile | None = None


class Comparison(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``candidate`` against ``base``, measured in the same rounds. Ratios are candidate / base. ``device``: by the GPU's clock,
    where both have one."""

    base: str
    candidate: str
    invoke: Ratio
    total: Ratio
    device: Ratio | None = None


class BenchResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One run of the benchmark. Every candidate after the first is compared with the first.

    Attributes:
        cpus: what the process was pinned to; empty: not pinned.
        load: the machine's load over all rounds.
        timer_ns: median cost of reading the clock once; contained in every phase.
        overhead: share of the measuring time spent outside the sessions (the harness itself), 0..1; None after a cut.
        complete: False for a run that was cut off and read back from its journal.
    """

    machine: MachineFacts
    settings: BenchSettings
    cpus: tuple[int, ...]
    candidates: tuple[CandidateResult, ...]
    comparisons: tuple[Comparison, ...]
    load: LoadShare | None
    timer_ns: float
    overhead: float | None
    complete: bool = True
    schema: int = 1

    def candidate(self, name: str) -> CandidateResult:
        """The candidate of this name.

        Raises:
            KeyError: there is none.
        """
        for entry in self.candidates:
            if entry.facts.name == name:
                return entry
        raise KeyError(name)

    def pair(self, place: int) -> PairedRuns:
        """``invoke`` of the first candidate and of the one at ``place``, which is 1 or more."""
        base, other = self.candidates[0].samples, self.candidates[place].samples
        return PairedRuns(base.invoke, other.invoke, other.runs_per_turn, self.settings.resamples, self.settings.seed)

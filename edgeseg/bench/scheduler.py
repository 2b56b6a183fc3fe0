"""Who runs when: warm-up until stable, then interleaved rounds until the budget is used."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from edgeseg.bench.affinity import choose_cpus, pinned
from edgeseg.bench.analysis import Observation, analyze
from edgeseg.bench.energy import EnergyMeter, RaplMeter
from edgeseg.bench.executor import Candidate, Clock, run_once, timer_cost
from edgeseg.bench.journal import Header, Journal, Round
from edgeseg.bench.load import LoadReading, load_between, read_load
from edgeseg.bench.machine import MachineFacts, machine_facts
from edgeseg.bench.memory import measure_memory
from edgeseg.bench.result import BenchResult, CandidateFacts, Sample
from edgeseg.bench.settings import BenchSettings
from edgeseg.errors import UsageError
from edgeseg.session import DeviceTimed, Session

__all__ = ["Instruments", "Progress", "measure"]

Progress = Callable[[int, int], None]
"""Called after each round with rounds done and rounds expected."""


@dataclass(frozen=True)
class Instruments:
    """What is read while measuring. Tests give their own clock."""

    clock: Clock = time.perf_counter_ns
    load: Callable[[], LoadReading] = read_load
    machine: Callable[[], MachineFacts] = machine_facts
    energy: EnergyMeter = field(default_factory=RaplMeter)


@dataclass(frozen=True)
class _Entrant:
    candidate: Candidate
    session: Session
    facts: CandidateFacts
    timed: DeviceTimed | None  # the session again; asking a protocol costs too much to be done in every round


def measure(
    candidates: Sequence[Candidate],
    settings: BenchSettings | None = None,
    *,
    journal: Path | None = None,
    progress: Progress = lambda _done, _expected: None,
    instruments: Instruments | None = None,
) -> BenchResult:
    """Measure candidates against each other in one run.

    Sessions are opened here, inside the pinning, and closed at the end. Python's cyclic garbage collector is off meanwhile.

    Args:
        candidates: the first one is the base of the comparisons.
        journal: a file for the samples, one line a round, written as they come (:mod:`edgeseg.bench.journal`).

    Raises:
        UsageError: no candidate, two of one name, or CPUs that cannot be had.
        OutputError: the journal cannot be written.
    """
    settings, instruments = settings or BenchSettings(), instruments or Instruments()
    names = [candidate.name for candidate in candidates]
    if not names or len(set(names)) != len(names):
        raise UsageError(f"Candidates need names that differ, there are {names}.", hint="Name each file once.")
    cpus = settings.cpus or choose_cpus(settings.threads)
    with ExitStack() as stack:
        stack.enter_context(pinned(cpus))
        output = stack.enter_context(Journal(journal))
        entrants = [_enter(candidate, settings, instruments.clock, stack) for candidate in candidates]
        header = Header(
            machine=instruments.machine(),
            settings=settings,
            cpus=cpus,
            candidates=tuple(entrant.facts for entrant in entrants),
            timer_ns=timer_cost(instruments.clock),
        )
        output.write(header)
        rounds: list[Round] = []
        stack.enter_context(_no_collection())
        before, start = instruments.load(), instruments.clock()
        for turns in _rounds(entrants, settings, instruments, progress):
            output.write(turns)
            rounds.append(turns)
        elapsed_ns, after = instruments.clock() - start, instruments.load()
    observation = Observation(load=load_between(before, after), elapsed_ns=elapsed_ns, energy_source=instruments.energy.source)
    return analyze(header, rounds, observation)


def _enter(candidate: Candidate, settings: BenchSettings, clock: Clock, stack: ExitStack) -> _Entrant:
    memory = measure_memory(candidate.open, candidate.x) if settings.memory else None
    start = clock()
    session = stack.enter_context(candidate.open())
    load_seconds = (clock() - start) / 1e9
    warmup, stable = _warm_up(session, candidate, settings, clock)
    timed = session if isinstance(session, DeviceTimed) else None
    facts = CandidateFacts(
        name=candidate.name,
        info=session.info,
        file_bytes=_size(candidate.file),
        load_seconds=load_seconds,
        warmup_ns=tuple(sample.total for sample in warmup),
        warmup_stable=stable,
        memory=memory,
        fed=candidate.fed,
        placement=candidate.placement,
        device_clock=timed.device_clock if timed is not None else "",
    )
    return _Entrant(candidate, session, facts, timed)


def _size(path: Path | None) -> int | None:
    return path.stat().st_size if path is not None else None


def _warm_up(session: Session, candidate: Candidate, settings: BenchSettings, clock: Clock) -> tuple[list[Sample], bool]:
    """Runs until two neighbouring windows have nearly the same median, or time is up. Returns the runs, and which it was."""
    window, end = settings.warmup_window, clock() + int(settings.warmup_seconds * 1e9)
    samples: list[Sample] = []
    while True:
        samples.append(run_once(session, candidate, clock))
        if len(samples) >= 2 * window:
            invoke = [sample.invoke for sample in samples]
            earlier = statistics.median(invoke[-2 * window : -window])
            later = statistics.median(invoke[-window:])
            if abs(later - earlier) <= settings.warmup_tolerance * earlier:
                return samples, True
        if clock() >= end:
            return samples, False


def _rounds(
    entrants: Sequence[_Entrant], settings: BenchSettings, instruments: Instruments, progress: Progress
) -> Iterator[Round]:
    clock, budget = instruments.clock, int(settings.budget_seconds * 1e9)
    lead_in = settings.lead_in if len(entrants) > 1 else 0
    start = clock()
    for done in range(1, settings.max_rounds + 1):
        turns, joules, device, device_host_ns = [], [], [], 0
        for entrant in entrants:
            turn, used = _turn(entrant, settings.runs_per_turn, lead_in, instruments)
            turns.append(turn)
            joules.extend(used)
            if entrant.timed is not None:
                before = clock()
                times = entrant.timed.device_times(settings.runs_per_turn)
                device_host_ns += clock() - before
                device.append(tuple(round(milliseconds * 1e6) for milliseconds in times))
            else:
                device.append(())
        with_device = any(device)
        yield Round(
            turns=tuple(turns),
            joules=tuple(joules),
            device=tuple(device) if with_device else (),
            device_host_ns=device_host_ns if with_device else 0,
        )
        elapsed = clock() - start
        by_time = math.ceil(done * budget / max(elapsed, 1))
        progress(done, min(max(by_time, settings.min_rounds, done), settings.max_rounds))
        if done >= settings.min_rounds and elapsed >= budget:
            return


def _turn(entrant: _Entrant, runs: int, lead_in: int, instruments: Instruments) -> tuple[tuple[Sample, ...], list[float]]:
    for _ in range(lead_in):
        run_once(entrant.session, entrant.candidate, instruments.clock)
    meter = instruments.energy
    before = meter.read()
    turn = tuple(run_once(entrant.session, entrant.candidate, instruments.clock) for _ in range(runs))
    return turn, [meter.joules_between(before, meter.read())] if meter.available else []


@contextmanager
def _no_collection() -> Iterator[None]:
    """Collect garbage once, then not at all inside."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()

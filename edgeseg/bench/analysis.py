"""From rounds to a result: pure, so that a journal that was cut off gives the same as a run that ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeseg.bench.energy import EnergyUse
from edgeseg.bench.journal import Header, Round, read_journal
from edgeseg.bench.load import LoadShare
from edgeseg.bench.noise import judge_noise
from edgeseg.bench.result import BenchResult, CandidateFacts, CandidateResult, Comparison, Samples
from edgeseg.bench.statistics import Ratio, paired_ratio, summarize
from edgeseg.errors import DataError

__all__ = ["Observation", "analyze", "recover"]


@dataclass(frozen=True)
class Observation:
    """What was seen over all rounds; unknown for a run that was cut off."""

    load: LoadShare | None = None
    elapsed_ns: int | None = None
    energy_source: str = "not available: the run was cut off"


def recover(path: Path) -> BenchResult:
    """The result of a run that was cut off, from its journal.

    Raises:
        DataError: not a journal, or no round in it.
    """
    content = read_journal(path)
    return analyze(content.header, content.rounds, Observation(), complete=False)


def analyze(header: Header, rounds: Sequence[Round], observation: Observation, *, complete: bool = True) -> BenchResult:
    """Summaries, noise verdicts and ratios.

    Raises:
        DataError: there is no round.
    """
    if not rounds:
        raise DataError("No round was measured.", hint="Measure again.")
    candidates = tuple(_candidate(facts, header, rounds, place, observation) for place, facts in enumerate(header.candidates))
    comparisons = tuple(_compare(candidates[0], other, header) for other in candidates[1:]) if len(rounds) > 1 else ()
    return BenchResult(
        machine=header.machine,
        settings=header.settings,
        cpus=header.cpus,
        candidates=candidates,
        comparisons=comparisons,
        load=observation.load,
        timer_ns=header.timer_ns,
        overhead=_overhead(candidates, rounds, header, observation),
        complete=complete,
    )


def _candidate(
    facts: CandidateFacts, header: Header, rounds: Sequence[Round], place: int, observation: Observation
) -> CandidateResult:
    runs = [sample for entry in rounds for sample in entry.turns[place]]
    samples = Samples(
        feed=tuple(run.feed for run in runs),
        invoke=tuple(run.invoke for run in runs),
        fetch=tuple(run.fetch for run in runs),
        preprocess=tuple(run.preprocess for run in runs) if any(run.preprocess for run in runs) else (),
        postprocess=tuple(run.postprocess for run in runs) if any(run.postprocess for run in runs) else (),
        device=tuple(ns for entry in rounds if entry.device for ns in entry.device[place]),
        runs_per_turn=header.settings.runs_per_turn,
    )
    joules = [entry.joules[place] for entry in rounds if entry.joules]
    return CandidateResult(
        facts=facts,
        samples=samples,
        feed=summarize(samples.feed),
        invoke=summarize(samples.invoke),
        fetch=summarize(samples.fetch),
        total=summarize(samples.total),
        noise=judge_noise(samples.invoke, first_run_ns=facts.warmup_ns[0], load=observation.load, machine=header.machine),
        energy=EnergyUse(joules_per_run=sum(joules) / len(runs) if joules else None, source=observation.energy_source),
        device=summarize(samples.device) if samples.device else None,
    )


def _compare(base: CandidateResult, other: CandidateResult, header: Header) -> Comparison:
    settings = header.settings

    def ratio(before: tuple[int, ...], after: tuple[int, ...]) -> Ratio:
        return paired_ratio(
            before,
            after,
            runs_per_turn=settings.runs_per_turn,
            confidence=settings.confidence,
            resamples=settings.resamples,
            seed=settings.seed,
        )

    a, b = base.samples, other.samples
    return Comparison(
        base=base.facts.name,
        candidate=other.facts.name,
        invoke=ratio(a.invoke, b.invoke),
        total=ratio(a.total, b.total),
        device=ratio(a.device, b.device) if a.device and b.device else None,
    )


def _overhead(
    candidates: Sequence[CandidateResult], rounds: Sequence[Round], header: Header, observation: Observation
) -> float | None:
    """Share of the time that no session used. Lead-in runs are not timed; each is taken to last as long as the median run."""
    if observation.elapsed_ns is None:
        return None
    lead_in = header.settings.lead_in if len(candidates) > 1 else 0
    inside = sum(sum(entry.samples.total) + lead_in * entry.samples.rounds * entry.total.median for entry in candidates) + sum(
        entry.device_host_ns for entry in rounds
    )
    return max(0.0, 1.0 - inside / max(observation.elapsed_ns, 1))

"""The tables of ``edgeseg bench``."""

from __future__ import annotations

import click

from edgeseg.bench.noise import Disturbance
from edgeseg.bench.profile import Placement, Profile
from edgeseg.bench.result import BenchResult, CandidateResult, Comparison
from edgeseg.cli.show import print_table, size_text
from edgeseg.interval import Interval
from edgeseg.report.result import BenchReport

__all__ = ["print_bench"]

_SLOWEST = 15
_NAME = 60


def print_bench(report: BenchReport) -> None:
    """All runs, then what was left out and what a reader must know."""
    for run in report.runs:
        _print_run(run, report)
        for candidate in run.candidates:
            if candidate.profile is not None:
                _print_profile(candidate, candidate.profile, run.settings.threads)
    for absent in report.absent:
        click.echo(f"not measured: {absent.name}: {absent.why}")
    for note in report.notes:
        click.echo(f"note: {note}")


def _print_run(run: BenchResult, report: BenchReport) -> None:
    comparisons = {entry.candidate: entry for entry in run.comparisons}
    threads = run.settings.threads
    title = f"{report.device}, {threads} thread{'s' if threads > 1 else ''}, {run.candidates[0].samples.rounds} rounds"
    title += f", image {report.image}" if report.image else ", cut off"
    columns = _columns(run)
    rows = [_row(entry, comparisons.get(entry.facts.name)) for entry in run.candidates]
    print_table(title, ["", *columns], [[row[""], *(row[column] for column in columns)] for row in rows])
    for entry in run.candidates:
        if entry.facts.placement is not None:
            click.echo(f"  {entry.facts.name} runs on {_placement(entry.facts.placement)}")
    for line in _advice(run):
        click.echo(f"  {line}")
    machine = run.machine
    overhead = "" if run.overhead is None else f"; outside the sessions {run.overhead:.1%} of the time"
    pinned = f", pinned to CPU {', '.join(map(str, run.cpus))}" if run.cpus else ""
    gpus = f"; {'; '.join(machine.gpus)}" if machine.gpus else ""
    click.echo(f"{machine.cpu}, {machine.logical_cores} cores{pinned}{gpus}{overhead}.")
    if all(entry.energy.joules_per_run is None for entry in run.candidates):
        click.echo(f"energy: {run.candidates[0].energy.source}.")


def _columns(run: BenchResult) -> list[str]:
    """The columns that say something in this run."""
    some = run.candidates
    whole = any(entry.samples.preprocess or entry.samples.postprocess for entry in some)
    return [
        "runtime",
        "median ms",
        "p90",
        "p99",
        *(["device ms"] if any(entry.device for entry in some) else []),
        *(["preprocess", "decide", "end to end"] if whole else []),
        "ratio [95 %]",
        "load ms",
        "size",
        *(["peak memory"] if any(entry.facts.memory for entry in some) else []),
        *(["mJ"] if any(entry.energy.joules_per_run is not None for entry in some) else []),
        "noise",
    ]


def _row(entry: CandidateResult, comparison: Comparison | None) -> dict[str, str]:
    facts = entry.facts
    ratio = None if comparison is None else comparison.device or comparison.invoke
    return {
        "": facts.name,
        "runtime": f"{facts.info.runtime} {facts.info.version}",
        "median ms": f"{entry.invoke.median / 1e6:.3f}",
        "p90": f"{entry.invoke.p90 / 1e6:.3f}",
        "p99": f"{entry.invoke.p99 / 1e6:.3f}",
        "device ms": "" if entry.device is None else f"{entry.device.median / 1e6:.3f}",
        "preprocess": _median(entry.samples.preprocess),
        "decide": _median(entry.samples.postprocess),
        "end to end": f"{entry.total.median / 1e6:.3f}",
        "ratio [95 %]": "base" if ratio is None else _interval(ratio.value),
        "load ms": f"{1e3 * facts.load_seconds:.0f}",
        "size": "" if facts.file_bytes is None else size_text(facts.file_bytes),
        "peak memory": "" if facts.memory is None else size_text(facts.memory.peak_over_interpreter),
        "mJ": "" if entry.energy.joules_per_run is None else f"{1e3 * entry.energy.joules_per_run:.1f}",
        "noise": "quiet" if entry.noise.quiet else "noisy",
    }


def _placement(found: Placement) -> str:
    """``XNNPACK: 77 of 79 operators in 1 part; LiteRT's own kernels: 2 QUANTIZE``; without a delegate the providers."""
    if found.partitions is None:
        return ", ".join(f"{place.removesuffix('ExecutionProvider')}: {count} nodes" for place, count in found.places.items())
    inside = found.operators - sum(found.outside.values())
    text = f"XNNPACK: {inside} of {found.operators} operators in {found.partitions} part{'s' if found.partitions != 1 else ''}"
    if not found.outside:
        return text
    return f"{text}; LiteRT's own kernels: {', '.join(f'{count} {kind}' for kind, count in found.outside.items())}"


def _print_profile(entry: CandidateResult, profile: Profile, threads: int) -> None:
    """The slowest operators, then what the rest sums up to."""
    whole = profile.whole_us
    ranked = sorted(profile.operators, key=lambda one: -(one.microseconds or 0.0))
    rows = [
        [
            one.name if len(one.name) <= _NAME else f"{one.name[: _NAME - 1]}…",
            one.kind,
            one.place,
            f"{one.calls:g}",
            "not timed" if one.microseconds is None else f"{one.microseconds:.0f}",
            "" if one.microseconds is None else f"{one.microseconds / whole:.1%}",
        ]
        for one in ranked[:_SLOWEST]
    ]
    rest = sum(one.microseconds or 0.0 for one in ranked[_SLOWEST:])
    if ranked[_SLOWEST:]:
        rows.append([f"{len(ranked) - _SLOWEST} more", "", "", "", f"{rest:.0f}", f"{rest / whole:.1%}"])
    title = f"{entry.facts.name}, {threads} thread{'s' if threads > 1 else ''}: {profile.method}, {profile.runs} runs"
    print_table(title, ["operator", "kind", "runs on", "calls", "us", "of the whole"], rows)
    unknown = sum(one.microseconds is None for one in ranked)
    click.echo(
        f"  sum {profile.total_us:.0f} us; the whole network takes {whole:.0f} us without the profiler"
        + (f"; {unknown} operators could not be timed" if unknown else "")
    )


def _advice(run: BenchResult) -> list[str]:
    """One line for each kind of disturbance: who suffered, what was seen first, what to do."""
    lines = []
    for kind in Disturbance:
        seen = [(one.facts.name, found) for one in run.candidates for found in one.noise.findings if found.kind is kind]
        if seen:
            who = "all" if len(seen) == len(run.candidates) > 1 else ", ".join(name for name, _ in seen)
            lines.append(f"{kind.value} ({who}): {seen[0][1].what}. {seen[0][1].advice}")
    return lines


def _median(samples: tuple[int, ...]) -> str:
    from edgeseg.bench.statistics import summarize

    return f"{summarize(samples).median / 1e6:.3f}" if samples else ""


def _interval(value: Interval) -> str:
    return f"{value.estimate:.3f} [{value.low:.3f}, {value.high:.3f}]"

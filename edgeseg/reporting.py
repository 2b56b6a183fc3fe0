"""Measure everything about some files of one model and put it on one page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np

from edgeseg.artifact import Artifact
from edgeseg.bench.machine import MachineFacts, machine_facts
from edgeseg.benching import BenchOptions, bench_subjects
from edgeseg.cache import tool_versions
from edgeseg.drifting import Comparison, DriftOptions, drift_with_counts, open_comparison, overlay_panels
from edgeseg.errors import ArtifactError, OutputError, UsageError
from edgeseg.gate.decide import GateInputs, decide
from edgeseg.gate.rules import parse_rules
from edgeseg.metrics.drift import Observed
from edgeseg.metrics.evidence import MIOU, Evidence
from edgeseg.report.overlay import class_colors
from edgeseg.report.page import Page, Picture, SearchFront, TargetSection, render
from edgeseg.report.plots import Tried
from edgeseg.report.result import BenchReport, DriftReport
from edgeseg.stages.search_record import SearchRecord, pareto_of

__all__ = ["DEFAULT_RULES", "ReportOptions", "build_page", "write_page"]

DEFAULT_RULES = ("miou:-0.5pt",)


@dataclass(frozen=True)
class ReportOptions:
    """What ``build_page`` takes beside the files.

    Attributes:
        spec: edgeseg.toml, for files that are not artifacts.
        reference: the trained model; by default the one that the artifacts were compiled from.
        rules: of the verdict.
        worst, typical: how many pictures of each kind.
        drift: evaluation images, intervals, how to load.
        bench: how to measure latency; None: not at all.
        progress: called with what is going on, and steps done and in all.
    """

    spec: Path | None = None
    reference: Path | None = None
    rules: tuple[str, ...] = DEFAULT_RULES
    worst: int = 3
    typical: int = 2
    drift: DriftOptions = field(default_factory=DriftOptions)
    bench: BenchOptions | None = field(default_factory=BenchOptions)
    progress: Callable[[str, int, int], None] = lambda _what, _done, _total: None


def build_page(paths: Sequence[Path], options: ReportOptions | None = None) -> Page:
    """Drift of each file, latency of all of them and their reference in turn, a verdict by the rules, pictures.

    Raises:
        UsageError: no file, files of different models, or no reference.
        EdgesegError: as ``drift`` and ``bench`` raise.
    """
    options = options or ReportOptions()
    parse_rules(options.rules)  # a mistake in a rule is told before minutes of measuring
    drift = replace(options.drift, worst=max(options.worst, options.drift.worst), progress=options.progress)
    comparisons = [open_comparison(path, options.spec, options.reference, drift) for path in paths]
    _check(comparisons)
    bench = _bench(comparisons, options)
    sections = [
        _section(comparison, *drift_with_counts(comparison, drift), bench, place, options)
        for place, comparison in enumerate(comparisons, start=1)
    ]
    reference = comparisons[0].reference
    return Page(
        title=f"{sections[0].name if len(sections) == 1 else f'{len(sections)} files'} against {reference.name}",
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        targets=sections,
        bench=bench,
        facts=_facts(bench.runs[0].machine if bench else machine_facts(), comparisons),
        reference_bytes=reference.path.stat().st_size,
        legend=tuple(zip(reference.spec.classes.names, class_colors(reference.spec.classes), strict=True)),
    )


def write_page(page: Page, path: Path) -> None:
    """Render and write.

    Raises:
        OutputError: it cannot be written.
    """
    text = render(page)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"Cannot write '{path}': {error.strerror}.", hint="Choose another --html.") from error


def _check(comparisons: Sequence[Comparison]) -> None:
    if not comparisons:
        raise UsageError("There is no file to report on.", hint="Give at least one artifact.")
    for field_name, found in (
        ("models", {comparison.reference.path.resolve() for comparison in comparisons}),
        ("specs", {comparison.subject.spec for comparison in comparisons}),
    ):
        if len(found) > 1:
            raise UsageError(
                f"The files come from {len(found)} {field_name}; a report compares files of one model.",
                hint="Write one report for each model.",
            )
    names = [comparison.subject.name for comparison in comparisons]
    if len(set(names)) < len(names):
        raise UsageError(f"Two files have the same name: {', '.join(names)}.", hint="Name each file once.")


def _bench(comparisons: Sequence[Comparison], options: ReportOptions) -> BenchReport | None:
    if options.bench is None:
        return None
    # The time of a simulation would stand beside times that mean something.
    timed = [comparison.subject for comparison in comparisons if not comparison.subject.simulated]
    if not timed:
        return None
    subjects = [comparisons[0].reference, *timed]
    entry = replace(options.bench.entry, load=options.drift.load)
    return bench_subjects(subjects, replace(options.bench, entry=entry, progress=options.progress))


def _section(
    comparison: Comparison, report: DriftReport, seen: Observed, bench: BenchReport | None, place: int, options: ReportOptions
) -> TargetSection:
    """``place``: of the file among those of ``bench``, whose first is the reference."""
    subject = comparison.subject
    file = subject.artifact.model_path if subject.artifact is not None else subject.path
    evidence = Evidence.pair(seen.reference, seen.candidate, resamples=options.drift.resamples, seed=options.drift.seed)
    run = bench.runs[0] if bench is not None else None
    if subject.simulated:
        run = None
    verdict = decide(
        parse_rules(options.rules),
        GateInputs(
            evidence=evidence,
            latency=run.pair(place) if run is not None else None,
            file_bytes=file.stat().st_size,
            base_bytes=comparison.reference.path.stat().st_size,
            memory=run.candidates[place].facts.memory if run is not None else None,
        ),
        candidate=subject.name,
        against=comparison.reference.name,
        confidence=options.drift.confidence,
    )
    int8 = subject.artifact.manifest.int8 if subject.artifact is not None else None
    return TargetSection(
        name=subject.name,
        file=file.name,
        file_bytes=file.stat().st_size,
        drift=report,
        gate=verdict,
        pictures=_pictures(comparison, report, evidence, options),
        int8_share=int8.mac_share if int8 is not None else None,
        search=_search(subject.artifact) if subject.artifact is not None else None,
        simulated=subject.simulated,
    )


def _search(artifact: Artifact) -> SearchFront | None:
    """What the artifact's search.json holds.

    Raises:
        ArtifactError: it cannot be read.
    """
    path = artifact.path / "search.json"
    if not path.is_file():
        return None
    try:
        record = msgspec.json.decode(path.read_bytes(), type=SearchRecord)
    except msgspec.DecodeError as error:
        raise ArtifactError(f"'{path}' cannot be read: {error}.", hint="Compile again.") from error
    tried = tuple(Tried(one.name, one.time_ratio, one.drop, one.measured, one.chosen) for one in pareto_of(record))
    return SearchFront(tried, record.budget) if len(tried) > 1 else None


def _pictures(comparison: Comparison, report: DriftReport, evidence: Evidence, options: ReportOptions) -> list[Picture]:
    """The images that cost most, and those whose influence is in the middle."""
    worst = [image.name for image in report.drift.worst_images[: options.worst]]
    influence = np.nan_to_num(evidence.segmentation.influence(MIOU))
    order = np.argsort(np.abs(influence - np.median(influence)), kind="stable")
    names = [evidence.reference.names[index] for index in order]
    typical = [name for name in names if name not in worst][: options.typical]
    why = dict.fromkeys(worst, "costs most") | dict.fromkeys(typical, "typical")
    panels = overlay_panels(comparison, [*worst, *typical], options.drift.threads)
    return [Picture(name, why[name], shown) for name, shown in panels]


def _facts(machine: MachineFacts, comparisons: Sequence[Comparison]) -> list[tuple[str, str]]:
    facts = [
        ("CPU", f"{machine.cpu} ({machine.architecture}), {machine.logical_cores} logical cores"),
        ("Instruction sets", ", ".join(machine.flags) or "unknown"),
        ("Memory", f"{machine.memory_bytes / 2**30:.1f} GiB"),
        ("Governor", machine.governor or "not told"),
        ("GPU", "; ".join(machine.gpus) or "none"),
        ("System", f"{machine.system}, Python {machine.python}"),
        ("Packages", ", ".join(f"{name} {version}" for name, version in {**machine.versions, **tool_versions()}.items())),
    ]
    if machine.commit is not None:
        facts.append(("edgeseg commit", machine.commit))
    for comparison in comparisons:
        if comparison.subject.artifact is not None:
            manifest = comparison.subject.artifact.manifest
            facts.append((comparison.subject.name, f"compiled {manifest.created}, {manifest.files[0].digest}"))
    return facts

"""The gate over files: measure what the rules ask for, and nothing else, then decide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from edgeseg import __version__
from edgeseg.artifact import load_artifact
from edgeseg.bench import BenchSettings
from edgeseg.bench.machine import machine_facts
from edgeseg.bench.result import BenchResult
from edgeseg.benching import BenchOptions, bench_subjects
from edgeseg.data.pairs import EvaluationSet, open_evaluation
from edgeseg.drifting import DriftOptions, compare_steps
from edgeseg.errors import EnvironmentLack, SpecError, UsageError
from edgeseg.gate.baseline import Baseline, Witnessed, counts_for, read_baseline, write_baseline
from edgeseg.gate.decide import GateInputs, check_classes, decide
from edgeseg.gate.rules import Rule, RuleKind, Unit, parse_rules
from edgeseg.gate.verdict import GateResult, TimedFile
from edgeseg.graph import digest_file
from edgeseg.metrics.confusion import compute
from edgeseg.metrics.counts import ImageCounts
from edgeseg.metrics.evidence import Evidence
from edgeseg.spec_file import SPEC_NAME, load_spec, place_of
from edgeseg.steps import Step
from edgeseg.subject import Subject, open_reference_of, open_subject

__all__ = [
    "GateOptions",
    "Judgement",
    "gate",
    "judge",
    "nothing_judged",
    "refuse_a_part",
    "rules_of",
    "update_baseline",
    "write_judged",
]

BENCH_SETTINGS = BenchSettings(budget_seconds=10.0, min_rounds=50)
"""How long a gate measures unless told otherwise: longer than ``bench`` does, for a verdict hangs on it."""


@dataclass(frozen=True)
class GateOptions:
    """What ``gate`` takes beside the subject and the rules.

    Attributes:
        spec: edgeseg.toml, for files that are not artifacts.
        against: an artifact, a file or the model to compare with; by default the model that the artifact was compiled from.
        baseline: quality and size are compared with this file instead. Latency never is: times of different runs do not
            compare.
        drift: evaluation images, resampling, how to load.
        bench: how to measure latency.
        progress: called with what is going on, and steps done and in all.
    """

    spec: Path | None = None
    against: Path | None = None
    baseline: Path | None = None
    drift: DriftOptions = field(default_factory=DriftOptions)
    bench: BenchOptions = field(default_factory=lambda: BenchOptions(settings=BENCH_SETTINGS))
    progress: Callable[[str, int, int], None] = lambda _what, _done, _total: None


@dataclass(frozen=True)
class Judgement:
    """A result with what it was computed from. ``counts``: of the subject; None where no rule asked for quality."""

    result: GateResult
    subject: Subject
    counts: ImageCounts | None


def gate(path: Path, rules: Sequence[str], options: GateOptions | None = None) -> GateResult:
    """Judge a file by rules such as ``miou:-0.5pt`` or ``latency:+5%`` (all in ``edgeseg.gate.rules``).

    Raises:
        UsageError: no rule, a rule that cannot be read, or nothing to compare with.
        DataError: the baseline is missing, or of other classes or images; told before anything is measured.
        EnvironmentLack: a rule of time, memory or size about an engine that could not be built here.
        EdgesegError: a file cannot be opened or run.
    """
    return judge(path, rules, options).result


def judge(path: Path, rules: Sequence[str], options: GateOptions | None = None) -> Judgement:
    """As ``gate``, with the counts, which ``write_judged`` makes a baseline of."""
    options = options or GateOptions()
    parsed = parse_rules(tuple(rules))
    if not parsed:
        raise UsageError(
            "The gate has no rule.",
            hint=f"Give at least one, for example --rule miou:-0.5pt, or set rules under [gate] in {SPEC_NAME}.",
        )
    subject = open_subject(path, options.spec, options.drift.load)
    check_classes(parsed, subject.spec.classes.names)
    baseline = read_baseline(options.baseline) if options.baseline is not None else None
    base = _base(subject, options, needed=_needs_base(parsed, baseline is not None))
    _refuse_simulation(parsed, subject)
    quality = any(rule.kind.is_quality for rule in parsed)
    samples = _samples(subject, options) if quality else None
    before = None
    if samples is not None and baseline is not None:
        assert options.baseline is not None
        before = counts_for(
            baseline,
            options.baseline,
            subject.spec.classes.names,
            [sample.name for sample in samples],
            some=options.drift.limit is not None,
        )
    timed = _measure(parsed, subject, base, options)
    evidence = None
    if samples is not None:
        evidence = _evidence(subject, base, before, samples, options)
    inputs = GateInputs(
        evidence=evidence,
        latency=timed.pair(1) if timed is not None and timed.comparisons else None,
        file_bytes=_file(subject).stat().st_size,
        base_bytes=baseline.file_bytes if baseline is not None else _file(base).stat().st_size if base is not None else None,
        memory=timed.candidates[-1].facts.memory if timed is not None else None,
        machine=timed.machine if timed is not None else machine_facts(),
        timed=_timed(timed) if timed is not None else (),
    )
    against = [f"baseline {baseline.name}"] if baseline is not None else []
    against += [base.name] if base is not None else []
    result = decide(
        parsed,
        inputs,
        candidate=subject.name,
        against=", ".join(against) or "its limits",
        confidence=options.drift.confidence,
    )
    return Judgement(result, subject, evidence.candidate if evidence is not None else None)


def rules_of(path: Path, spec: Path | None = None) -> tuple[str, ...]:
    """The rules in edgeseg.toml: ``spec``, or the one that an artifact was compiled with, or the one beside a file or in the
    current folder. Empty where there is no such file: an artifact does not need it.

    Raises:
        SpecError: it cannot be read, or a rule in it cannot; the message begins with file and line.
    """
    places = [path.parent, Path.cwd()]
    if (path / "manifest.json").is_file():
        places.insert(0, Path(load_artifact(path).manifest.source.base))
    found = [spec] if spec is not None else [place / SPEC_NAME for place in places if (place / SPEC_NAME).is_file()]
    if not found:
        return ()
    rules = load_spec(found[0]).gate.rules
    for rule in rules:
        try:
            parse_rules((rule,))
        except UsageError as error:
            raise SpecError(
                f"{place_of(found[0], 'gate.rules', rule)}: gate.rules: {error.message}", hint=error.hint
            ) from error
    return rules


def update_baseline(path: Path, destination: Path, options: GateOptions | None = None) -> Baseline:
    """Measure a file and make it the baseline that later ones are compared with.

    Raises:
        OutputError: the baseline cannot be written.
        EdgesegError: as ``gate``.
    """
    options = options or GateOptions()
    subject = open_subject(path, options.spec, options.drift.load)
    return _write(subject, _counts(subject, options), destination)


def refuse_a_part(destination: Path, limit: int) -> None:
    """A file that was judged on some of the images does not replace the baseline of all: no later gate could use it.

    Raises:
        UsageError: the baseline is of more images than ``limit``.
        DataError: it cannot be read.
    """
    held = len(read_baseline(destination).counts.names)
    if limit < held:
        raise UsageError(
            f"The baseline '{destination}' is of {held} images; one of {limit} cannot replace it.",
            hint="Leave --limit or --update-baseline out.",
        )


def write_judged(judgement: Judgement, destination: Path, options: GateOptions | None = None) -> Baseline:
    """As ``update_baseline``, for a file that was judged: what was evaluated for that is not evaluated again."""
    counts = judgement.counts or _counts(judgement.subject, options or GateOptions())
    return _write(judgement.subject, counts, destination)


def nothing_judged(candidate: str) -> GateResult:
    """The result of a call that only wrote a baseline: no rule, no finding, the machine's facts."""
    return GateResult(candidate=candidate, against="", findings=(), machine=machine_facts())


def _write(subject: Subject, counts: ImageCounts, destination: Path) -> Baseline:
    baseline = Baseline(
        name=subject.name,
        digest=digest_file(_file(subject)),
        file_bytes=_file(subject).stat().st_size,
        counts=counts.record(),
        miou=compute(counts.total).miou,
        version=__version__,
    )
    write_baseline(destination, baseline)
    return baseline


def _needs_base(rules: Sequence[Rule], has_baseline: bool) -> bool:
    """Latency always needs another file in the same run; quality and relative size do where there is no baseline."""
    compared = any(rule.kind.is_quality or (rule.kind is RuleKind.SIZE and rule.unit is Unit.RATIO) for rule in rules)
    return any(rule.kind.is_timing for rule in rules) or (compared and not has_baseline)


def _base(subject: Subject, options: GateOptions, *, needed: bool) -> Subject | None:
    if not needed:
        return None
    if options.against is not None:
        return open_subject(options.against, subject.spec if not options.against.is_dir() else None, options.drift.load)
    base = open_reference_of(subject, None, options.drift.load)
    if base is None:
        raise UsageError(
            f"There is nothing to compare '{subject.path}' with.",
            hint="Name a file, an artifact or the trained model with --against, or a baseline with --baseline.",
        )
    return base


def _samples(subject: Subject, options: GateOptions) -> EvaluationSet:
    drift = options.drift
    samples = open_evaluation(subject.spec, subject.base, images=drift.images, masks=drift.masks, regions=drift.regions)
    return samples if drift.limit is None else samples.take(drift.limit)


def _evidence(
    subject: Subject, base: Subject | None, before: ImageCounts | None, samples: EvaluationSet, options: GateOptions
) -> Evidence:
    """Against the counts of a baseline, or against the base in the same pass."""
    steps = [Step("subject", subject.open)]
    if before is not None:
        after = _pass(steps, Witnessed.of(samples, before), options)[1]
    else:
        assert base is not None
        before, after = _pass([Step("base", base.open), *steps], samples, options)
    return Evidence.pair(before, after, resamples=options.drift.resamples, seed=options.drift.seed)


def _counts(subject: Subject, options: GateOptions) -> ImageCounts:
    return _pass([Step("subject", subject.open)], _samples(subject, options), options)[1]


def _pass(steps: Sequence[Step], samples: EvaluationSet, options: GateOptions) -> tuple[ImageCounts, ImageCounts]:
    seen, _, _ = compare_steps(steps, samples, replace(options.drift, progress=options.progress))
    return seen.reference, seen.candidate


def _timed(run: BenchResult) -> tuple[TimedFile, ...]:
    return tuple(
        TimedFile(
            name=one.facts.name,
            runtime=f"{one.facts.info.runtime} {one.facts.info.version}",
            threads=one.facts.info.threads,
            median_ns=one.invoke.median,
            noise=one.noise,
        )
        for one in run.candidates
    )


def _refuse_simulation(rules: Sequence[Rule], subject: Subject) -> None:
    """What ONNX Runtime makes of an engine's graph says nothing about the engine's time, memory and size."""
    asked = [rule.text for rule in rules if not rule.kind.is_quality]
    if subject.simulated and asked:
        raise EnvironmentLack(
            f"'{subject.path}' cannot be judged by {', '.join(asked)}: {subject.simulated}.",
            hint="Build the engine on a machine with a GPU and judge it there; rules about quality can be judged in simulation.",
        )


def _measure(rules: Sequence[Rule], subject: Subject, base: Subject | None, options: GateOptions) -> BenchResult | None:
    """A benchmark of base and subject, base first; of the subject alone where only memory is asked for."""
    timing = any(rule.kind.is_timing for rule in rules)
    memory = any(rule.kind is RuleKind.MEMORY for rule in rules)
    if not timing and not memory:
        return None
    settings = msgspec.structs.replace(options.bench.settings, memory=memory, confidence=options.drift.confidence)
    if not timing:
        settings = msgspec.structs.replace(settings, budget_seconds=0.0, min_rounds=2)
    subjects = [base, subject] if timing and base is not None else [subject]
    entry = replace(options.bench.entry, load=options.drift.load)
    bench = replace(options.bench, settings=settings, entry=entry, progress=options.progress)
    return bench_subjects(subjects, bench).runs[0]


def _file(subject: Subject) -> Path:
    return subject.artifact.model_path if subject.artifact is not None else subject.path

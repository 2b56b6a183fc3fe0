"""Benchmarks of subjects: artifacts, foreign files and the model itself against each other, once for each number of threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec

from edgeseg.android import AndroidErrand, bench_by_adb
from edgeseg.bench import BenchResult, BenchSettings, Candidate, Instruments, measure
from edgeseg.bench.device import DeviceKind
from edgeseg.bench.energy import NvmlMeter
from edgeseg.elsewhere import Errand, bench_by_ssh
from edgeseg.entries import Entry, EntryOptions, entries_of, subject_or_bare
from edgeseg.errors import EdgesegError, EnvironmentLack, OutputError, UsageError
from edgeseg.profiling import placement_of, profile_of
from edgeseg.remote.ssh import RemoteOptions
from edgeseg.report.result import Absent, BenchReport
from edgeseg.spec import ModelSpec
from edgeseg.subject import Subject
from edgeseg.untold import Untold

__all__ = ["BenchOptions", "bench", "bench_subjects", "journal_path", "write_report"]


@dataclass(frozen=True)
class BenchOptions:
    """What ``bench`` takes beside the subjects.

    Attributes:
        threads: one run of the benchmark for each.
        settings: of each run; its ``threads`` is replaced.
        entry: how the files are loaded, run and fed.
        profile: take the time of every operator too, after each run.
        remote: how another machine is used (a device of kind ssh; its limit holds for adb too).
        tool: LiteRT's ``benchmark_model`` for an Android device; None: one lies there already.
        journal: samples go to ``<journal>.<threads>t.jsonl`` as they come.
        progress: called with what is going on.
    """

    threads: tuple[int, ...] = (1,)
    settings: BenchSettings = field(default_factory=BenchSettings)
    entry: EntryOptions = field(default_factory=EntryOptions)
    profile: bool = False
    remote: RemoteOptions = field(default_factory=RemoteOptions)
    tool: Path | None = None
    journal: Path | None = None
    progress: Callable[[str, int, int], None] = lambda _what, _done, _expected: None


def bench(subjects: Sequence[Path], spec: ModelSpec | Path | None = None, options: BenchOptions | None = None) -> BenchReport:
    """Measure files against each other; the first is the base of every comparison. A file without an edgeseg.toml is fed noise.

    Raises:
        UsageError: no subject, or one twice.
        EnvironmentLack: there is no GPU, or the other machine cannot be used, and it was asked for.
        EdgesegError: as opening the files raises.
    """
    options = options or BenchOptions()
    if len({path.resolve() for path in subjects}) < len(subjects) or not subjects:
        raise UsageError("A benchmark needs at least one file, each once.", hint="Name each file or folder once.")
    _check_device(options)
    if options.entry.device.kind is DeviceKind.SSH:
        errand = Errand(options.threads, options.settings, options.entry, options.profile, _journals(options), options.remote)
        return bench_by_ssh(subjects, spec, errand)
    if options.entry.device.kind is DeviceKind.ADB:
        return bench_by_adb(subjects, _android(options))
    return bench_subjects([subject_or_bare(path, spec, options.entry) for path in subjects], options)


def bench_subjects(subjects: Sequence[Subject | Untold], options: BenchOptions) -> BenchReport:
    """As ``bench``, for subjects that are open already."""
    entries, image = entries_of(subjects, options.entry)
    runs: list[BenchResult] = []
    absent: dict[str, Absent] = {}
    for threads in options.threads:
        ready = _ready(entries, threads, absent)
        candidates = [_candidate(entry, threads) for entry in ready]
        gpu = options.entry.device.kind is DeviceKind.CUDA
        # Host memory says nothing of a GPU's.
        settings = msgspec.structs.replace(options.settings, threads=threads, memory=options.settings.memory and not gpu)
        what = f"{threads} thread{'s' if threads > 1 else ''}"
        result = measure(
            candidates,
            settings,
            journal=journal_path(options.journal, threads) if options.journal else None,
            progress=partial(options.progress, what),
            instruments=Instruments(energy=NvmlMeter(options.entry.device.index)) if gpu else None,
        )
        runs.append(_profiled(result, ready, threads) if options.profile else result)
    return BenchReport(
        image=image,
        device=options.entry.device.text,
        runs=tuple(runs),
        absent=tuple(absent.values()),
        notes=_notes(entries, image),
    )


def journal_path(output: Path, threads: int) -> Path:
    """Where the samples of one run go while it lasts."""
    return output.with_name(f"{output.name}.{threads}t.jsonl")


def write_report(report: BenchReport, path: Path) -> None:
    """Write the whole report as JSON and remove the journals, which it contains.

    Raises:
        OutputError: it cannot be written; the journals are left.
    """
    try:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
        for run in report.runs:
            journal_path(path, run.settings.threads).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"Cannot write '{path}': {error.strerror}.", hint="Choose another --output.") from error


def _journals(options: BenchOptions) -> Callable[[int], Path] | None:
    return partial(journal_path, options.journal) if options.journal is not None else None


def _android(options: BenchOptions) -> AndroidErrand:
    return AndroidErrand(
        device=options.entry.device,
        threads=options.threads,
        settings=options.settings,
        tool=options.tool,
        profile=options.profile,
        journals=_journals(options),
        limit_s=options.remote.limit_s,
    )


def _check_device(options: BenchOptions) -> None:
    """A GPU is looked for before any file is loaded."""
    if options.entry.device.kind is not DeviceKind.CUDA:
        return
    from edgeseg.trt.driver import find_driver

    count = len(find_driver().gpus)
    if options.entry.device.index >= count:
        raise EnvironmentLack(
            f"There is no GPU {options.entry.device.index}; this machine has {count}.", hint="Count from 0: --device cuda:0."
        )


def _ready(entries: Sequence[Entry], threads: int, absent: dict[str, Absent]) -> list[Entry]:
    """Entries that open, each opened once before anything is timed: a file that does not open fails at once, and the load time
    that is reported is the file's own, without the import of its runtime. What was one way among several to run a model, and
    is impossible here, goes to ``absent``."""
    ready = []
    first: EdgesegError | None = None
    for entry in entries:
        try:
            entry.open(threads).close()
        except EdgesegError as error:
            if not entry.optional:
                raise
            first = first or error
            absent.setdefault(entry.name, Absent(name=entry.name, why=str(error)))
        else:
            ready.append(entry)
    if first is not None and not ready:
        raise first
    return ready


def _candidate(entry: Entry, threads: int) -> Candidate:
    feeding = entry.feeding
    return Candidate(
        name=entry.name,
        open=partial(entry.open, threads),
        x=feeding.x,
        file=entry.file,
        preprocess=feeding.preprocess,
        postprocess=feeding.postprocess,
        fed=feeding.text,
        placement=placement_of(entry.open, entry.file, feeding.x, threads),
    )


def _profiled(result: BenchResult, entries: Sequence[Entry], threads: int) -> BenchResult:
    """Profiles are taken after everything was timed, so that no profiler is near the samples."""
    candidates = tuple(
        msgspec.structs.replace(one, profile=profile_of(entry.open, entry.file, entry.feeding.x, threads))
        for one, entry in zip(result.candidates, entries, strict=True)
    )
    return msgspec.structs.replace(result, candidates=candidates)


def _notes(entries: Sequence[Entry], image: str) -> tuple[str, ...]:
    """What was not fed the run's picture, and what did not run where it is meant to."""
    fed = [f"{entry.name} was fed {entry.feeding.text}" for entry in entries if entry.feeding.text != image]
    simulated = [
        f"{entry.simulated}: the times of {entry.name} are those of another runtime and say nothing about a GPU"
        for entry in entries
        if entry.simulated
    ]
    return (*fed, *simulated)

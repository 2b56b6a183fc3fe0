"""Benchmarks of subjects: artifacts, foreign files and the model itself against each other, once for each number of threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from edgeseg.bench import BenchSettings, Candidate, measure
from edgeseg.data.calibration import load_prepared, open_calibration
from edgeseg.data.pairs import open_evaluation
from edgeseg.errors import DataError, OutputError, UsageError
from edgeseg.preprocess import Prepared, decide, load_image, prepare, restore
from edgeseg.report.result import BenchReport
from edgeseg.session import Float32, ModelInput, Session
from edgeseg.spec import ModelSpec
from edgeseg.subject import LoadOptions, Subject, open_subject

__all__ = ["BenchOptions", "bench", "bench_subjects", "write_report"]


@dataclass(frozen=True)
class BenchOptions:
    """What ``bench`` takes beside the subjects.

    Attributes:
        threads: one run of the benchmark for each.
        settings: of each run; its ``threads`` is replaced.
        image: the picture to run on; by default the first evaluation image, else the first calibration image, else noise.
        end_to_end: time decoding, preprocessing and the decision as well.
        journal: samples go to ``<journal>.<threads>t.jsonl`` as they come.
        load: how to load models and foreign files.
        progress: called with what is going on.
    """

    threads: tuple[int, ...] = (1,)
    settings: BenchSettings = field(default_factory=BenchSettings)
    image: Path | None = None
    end_to_end: bool = False
    journal: Path | None = None
    load: LoadOptions = field(default_factory=LoadOptions)
    progress: Callable[[str, int, int], None] = lambda _what, _done, _expected: None


def bench(subjects: Sequence[Path], spec: ModelSpec | Path | None = None, options: BenchOptions | None = None) -> BenchReport:
    """Measure files against each other; the first is the base of every comparison.

    Raises:
        UsageError: no subject, or one twice.
        EdgesegError: as opening the files raises.
    """
    options = options or BenchOptions()
    return bench_subjects([open_subject(path, spec, options.load) for path in subjects], options)


def bench_subjects(subjects: Sequence[Subject], options: BenchOptions) -> BenchReport:
    """As ``bench``, for subjects that are open already."""
    if len({subject.path.resolve() for subject in subjects}) < len(subjects) or not subjects:
        raise UsageError("A benchmark needs at least one file, each once.", hint="Name each file or folder once.")
    picture, region = _picture(subjects[0], options.image)
    names = _names(subjects)
    runs = []
    for threads in options.threads:
        candidates = [
            _candidate(subject, name, threads, picture, region, options) for subject, name in zip(subjects, names, strict=True)
        ]
        # Opened once before anything is timed: a file that does not open fails at once, and the load time that is reported is
        # the file's own, without the import of its runtime.
        for candidate in candidates:
            candidate.open().close()
        settings = msgspec.structs.replace(options.settings, threads=threads)
        what = f"{threads} thread{'s' if threads > 1 else ''}"
        runs.append(
            measure(
                candidates,
                settings,
                journal=journal_path(options.journal, threads) if options.journal else None,
                progress=partial(options.progress, what),
            )
        )
    return BenchReport(image=str(picture.name) if picture else "noise", runs=tuple(runs))


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


def _names(subjects: Sequence[Subject]) -> list[str]:
    """The subjects' names; where two are the same, their paths."""
    names = [subject.name for subject in subjects]
    return [name if names.count(name) == 1 else str(subject.path) for subject, name in zip(subjects, names, strict=True)]


def _candidate(
    subject: Subject, name: str, threads: int, picture: Path | None, region: Path | None, options: BenchOptions
) -> Candidate:
    spec = subject.spec
    prepared = _prepared(spec, picture, region)
    return Candidate(
        name=name,
        open=_opener(subject, threads, options.load),
        x=prepared.input,
        file=subject.artifact.model_path if subject.artifact else subject.path,
        preprocess=partial(_preprocess, picture, spec, region) if options.end_to_end and picture is not None else None,
        postprocess=partial(_decision, prepared, spec) if options.end_to_end else None,
    )


def _opener(subject: Subject, threads: int, load: LoadOptions) -> Callable[[], Session]:
    if subject.is_model:  # The loaded network cannot be sent to the process that measures memory; its path can.
        return partial(_open_model, subject.path, subject.spec, load, threads)
    return partial(subject.open, threads)


def _open_model(path: Path, spec: ModelSpec, load: LoadOptions, threads: int) -> Session:
    return open_subject(path, spec, load).open(threads)


def _preprocess(picture: Path, spec: ModelSpec, region: Path | None) -> ModelInput:
    return load_prepared(picture, spec, region).input


def _decision(prepared: Prepared, spec: ModelSpec, logits: Float32) -> object:
    return decide(restore(logits, prepared.placement, spec), spec)


def _prepared(spec: ModelSpec, picture: Path | None, region: Path | None) -> Prepared:
    if picture is not None:
        return load_prepared(picture, spec, region)
    noise = np.random.default_rng(0).integers(0, 256, (spec.input.height, spec.input.width, 3), np.uint8)
    return prepare(noise, spec, np.ones(noise.shape[:2], np.bool_))


def _picture(subject: Subject, given: Path | None) -> tuple[Path | None, Path | None]:
    """The image of every run and its region mask: the one given, or the first that the spec's data sets have."""
    if given is not None:
        load_image(given)
        return given, None
    try:
        sample = next(iter(open_evaluation(subject.spec, subject.base)))
        return sample.image_path, sample.region_path
    except (UsageError, DataError):
        pass  # No evaluation set here: any other picture of the model's world will do.
    try:
        calibration = open_calibration(subject.spec, subject.base, count=1)
    except (UsageError, DataError):
        return None, None
    return calibration.paths[0], calibration.regions[0] if calibration.regions else None

"""What compiling did to a model's predictions, and at which stage: one pass over the images with every file of the chain."""

from __future__ import annotations

import csv
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from edgeseg.artifact import Artifact
from edgeseg.cache import tool_versions
from edgeseg.chain import ChainOptions, build_chain, repeatable
from edgeseg.compiling import open_graph
from edgeseg.data.calibration import CalibrationSet
from edgeseg.data.pairs import EvaluationSet, open_evaluation
from edgeseg.errors import DataError, UsageError
from edgeseg.graph import Format, Graph
from edgeseg.metrics.calibration import confidence_of
from edgeseg.metrics.counts import CountSettings, ImageCounter
from edgeseg.metrics.drift import DriftAccumulator, Observed, summarize_drift
from edgeseg.model import load_model
from edgeseg.preprocess import Int16, decide, load_image, restore
from edgeseg.report.overlay import Panel, class_colors, colorize, difference
from edgeseg.report.result import DriftReport, LayerError
from edgeseg.report.waterfall import Waterfall, build_waterfall
from edgeseg.session import Session, infer
from edgeseg.spec import IoType, ModelSpec, OutputKind, Target
from edgeseg.subject import LoadOptions, Subject, open_reference_of, open_subject

__all__ = [
    "Comparison",
    "DriftOptions",
    "Step",
    "compare_steps",
    "drift",
    "drift_with_counts",
    "open_comparison",
    "overlay_panels",
    "read_groups",
]


@dataclass(frozen=True)
class DriftOptions:
    """What ``drift`` takes beside the subject.

    Attributes:
        images, masks, regions: folders or globs in place of the spec's evaluation set.
        limit: this many images only, drawn by seed.
        groups: image stem to group.
        waterfall: build the chain's earlier files again and measure each.
        threads: of the runtimes.
        worst: how many images to list.
        settings: resampling and intervals.
        load: how to load models and foreign files.
        progress: called with what is going on, and steps done and in all.
    """

    images: str | None = None
    masks: str | None = None
    regions: str | None = None
    limit: int | None = None
    groups: Mapping[str, str] | None = None
    waterfall: bool = True
    threads: int = 1
    worst: int = 6
    confidence: float = 0.95
    resamples: int = 2000
    seed: int = 0
    load: LoadOptions = field(default_factory=LoadOptions)
    progress: Callable[[str, int, int], None] = lambda _what, _done, _total: None


@dataclass(frozen=True)
class Comparison:
    """A subject, what it is compared with, and on which images."""

    subject: Subject
    reference: Subject
    samples: EvaluationSet


@dataclass(frozen=True)
class Step:
    """One file on the way. ``stage``: what made it."""

    stage: str
    open: Callable[[], Session]


def open_comparison(path: Path, spec: Path | None, reference: Path | None, options: DriftOptions) -> Comparison:
    """Find the subject, its reference and the evaluation set.

    Raises:
        UsageError: there is no reference.
        EdgesegError: as ``open_subject`` and ``open_evaluation``.
    """
    subject = open_subject(path, spec, options.load)
    samples = open_evaluation(subject.spec, subject.base, images=options.images, masks=options.masks, regions=options.regions)
    if options.limit is not None:
        samples = samples.take(options.limit)
    found = open_reference_of(subject, reference, options.load)
    if found is None:
        raise UsageError(f"No reference model was found for '{path}'.", hint="Give the trained model with --reference.")
    return Comparison(subject, found, samples)


def drift(comparison: Comparison, options: DriftOptions | None = None) -> DriftReport:
    """Reference and subject on the same images; for an artifact every stage between them as well.

    Raises:
        EdgesegError: a file cannot be opened or run, or an image not read.
    """
    return drift_with_counts(comparison, options or DriftOptions())[0]


def drift_with_counts(comparison: Comparison, options: DriftOptions) -> tuple[DriftReport, Observed]:
    """As ``drift``, with the counts that it was computed from."""
    subject, reference, samples = comparison.subject, comparison.reference, comparison.samples
    with tempfile.TemporaryDirectory(prefix="edgeseg-drift-") as work:
        chain: list[tuple[str, Graph]] = []
        notes: list[str] = []
        steps = [Step("model", lambda: reference.open(options.threads))]
        if subject.artifact is not None and options.waterfall:
            chain = _rebuild(subject.artifact, reference.path, Path(work), options)
            notes += _other_versions(subject.artifact)
        steps += _steps(chain, subject, options.threads)
        seen, waterfall, runtimes = compare_steps(steps, samples, options)
        layers = _layers(chain, subject.artifact, samples, notes)
    report = DriftReport(
        subject=subject.name,
        reference=reference.name,
        runtime=runtimes[-1],
        reference_runtime=runtimes[0],
        drift=summarize_drift(
            seen,
            groups=options.groups,
            confidence=options.confidence,
            resamples=options.resamples,
            seed=options.seed,
            worst=options.worst,
        ),
        waterfall=waterfall if len(steps) > 2 else None,
        layers=layers,
        notes=tuple(notes),
    )
    return report, seen


def compare_steps(
    steps: Sequence[Step], samples: EvaluationSet, options: DriftOptions
) -> tuple[Observed, Waterfall, tuple[str, ...]]:
    """One pass with all steps' sessions: counts of the first and the last (of one step alone, twice its own), the waterfall, and
    what ran each step.

    Memory does not grow with the number of images but for their counts.

    Raises:
        DataError: there is no image, or one cannot be read.
    """
    spec = samples.spec
    with ExitStack() as stack:
        sessions = [stack.enter_context(step.open()) for step in steps]
        runtimes = tuple(f"{session.info.runtime} {session.info.version}" for session in sessions)
        tally: _Tally | None = None
        for done, loaded in enumerate(samples.load(), start=1):
            labels, confidences, channels = [], [], []
            for index, session in enumerate(sessions):
                logits = restore(infer(session, loaded.prepared.input), loaded.prepared.placement, spec)
                channels.append(logits.shape[0])
                labels.append(decide(logits, spec))
                if index in {0, len(sessions) - 1}:
                    confidences.append(confidence_of(logits, probability=spec.output.kind is OutputKind.PROBABILITY))
            tally = tally or _Tally(spec, channels)
            tally.drift.update(loaded.sample.name, loaded.truth, labels[0], labels[-1], (confidences[0], confidences[-1]))
            tally.add(loaded.sample.name, loaded.truth, labels)
            options.progress("images", done, len(samples))
    if tally is None:
        raise DataError("There was no image to evaluate.", hint="Give images and masks with --images and --masks.")
    seen = tally.drift.compute()
    between = tally.between.compute() if len(steps) > 2 else ()
    waterfall = build_waterfall(
        [step.stage for step in steps],
        runtimes,
        [seen.reference, *between, seen.candidate],
        (tally.changed / max(tally.counted, 1)).tolist(),
        confidence=options.confidence,
        resamples=options.resamples,
        seed=options.seed,
    )
    return seen, waterfall, runtimes


class _Tally:
    """Counts of one pass; made when the numbers of channels are known."""

    def __init__(self, spec: ModelSpec, channels: Sequence[int]) -> None:
        single = spec.output.kind is not OutputKind.LOGITS
        extras = tuple(0 if single else count - spec.num_classes for count in channels)
        settings = CountSettings(classes=spec.classes.names)
        self.drift = DriftAccumulator(settings, reference_extra=extras[0], candidate_extra=extras[-1])
        self.between = ImageCounter(settings, extras[1:-1])
        self.changed = np.zeros(len(channels) - 1, np.int64)
        self.counted = 0

    def add(self, name: str, truth: Int16, labels: Sequence[Int16]) -> None:
        if len(labels) > 2:
            self.between.update(name, truth, tuple(labels[1:-1]))
        counted = truth >= 0
        self.counted += int(np.count_nonzero(counted))
        changed = [np.count_nonzero((before != after) & counted) for before, after in pairwise(labels)]
        self.changed += np.asarray(changed, np.int64)


def overlay_panels(comparison: Comparison, names: Sequence[str], threads: int = 1) -> Iterator[tuple[str, list[Panel]]]:
    """For each named image, in this order: image, truth, reference, subject and where the two differ."""
    spec = comparison.subject.spec
    chosen = {sample.name: sample for sample in comparison.samples}
    colors = class_colors(spec.classes, spec.num_classes)
    subset = replace(comparison.samples, samples=tuple(chosen[name] for name in names))
    with comparison.reference.open(threads) as reference, comparison.subject.open(threads) as subject:
        for loaded in subset.load():
            image = load_image(loaded.sample.image_path)
            before, after = (
                decide(restore(infer(session, loaded.prepared.input), loaded.prepared.placement, spec), spec)
                for session in (reference, subject)
            )
            yield (
                loaded.sample.name,
                [
                    Panel("image", image),
                    Panel("truth", colorize(image, loaded.truth, colors)),
                    Panel(comparison.reference.name, colorize(image, before, colors)),
                    Panel(comparison.subject.name, colorize(image, after, colors)),
                    Panel("changed", difference(image, before, after)),
                ],
            )


def read_groups(path: Path) -> dict[str, str]:
    """A CSV of image stem and group, one a line; a first line without an image's stem is its heading.

    Raises:
        DataError: it cannot be read, or a line has not two columns.
    """
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = [row for row in csv.reader(stream) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"Cannot read the groups '{path}': {error}.", hint="Give a CSV of image stem and group.") from error
    for number, row in enumerate(rows, start=1):
        if len(row) != 2:
            raise DataError(f"Line {number} of '{path}' has {len(row)} columns.", hint="Write: image stem,group")
    return {stem.strip(): group.strip() for stem, group in rows}


def _rebuild(artifact: Artifact, model_path: Path, work: Path, options: DriftOptions) -> list[tuple[str, Graph]]:
    """Every file of the artifact's chain, the artifact's own last. The stages before the last are run again: they are
    deterministic and need no calibration images."""
    manifest = artifact.manifest
    source = manifest.source
    model = load_model(
        model_path,
        factory=options.load.factory or source.factory,
        trust_pickle=options.load.trust_pickle,
        output_name=options.load.output_name or source.output_name or manifest.spec.output.name,
    )
    stages = build_chain(
        ChainOptions(
            target=Target(manifest.target),
            model=model,
            spec=manifest.spec,
            calibration=CalibrationSet(manifest.spec, (), (), (), 0, 0),
            io=IoType.FLOAT32,
            lowering=manifest.settings.get("lowering", "auto"),
        )
    )
    chain: list[tuple[str, Graph]] = []
    again = repeatable(stages)
    for index, stage in enumerate(again):
        options.progress(f"rebuild: {stage.name}", index, len(again))
        chain.append((stage.name, stage.run(chain[-1][1] if chain else None, work).graph))
    form = Format(artifact.model_path.suffix[1:])
    chain.append((stages[len(again)].name, Graph(artifact.model_path, form, manifest.files[0].digest, manifest.pixels)))
    return chain


def _steps(chain: Sequence[tuple[str, Graph]], subject: Subject, threads: int) -> list[Step]:
    """The rebuilt files, and the subject itself. A TFLite file is run on LiteRT's own kernels first, so that what XNNPACK's
    kernels change is a step of its own."""
    steps = [
        Step(stage, lambda graph=graph: open_graph(graph, threads=threads))  # type: ignore[misc]
        for stage, graph in chain[:-1]
    ]
    last = "subject"
    if chain:
        last, graph = chain[-1]
        if graph.format is Format.TFLITE:
            steps.append(Step(last, lambda: _without_delegate(graph, threads)))
            last = "kernels"
    return [*steps, Step(last, lambda: subject.open(threads))]


def _without_delegate(graph: Graph, threads: int) -> Session:
    from edgeseg.targets.tflite import open_tflite

    return open_tflite(graph.path, threads=threads, delegate=False, pixels=graph.pixels)


def _other_versions(artifact: Artifact) -> list[str]:
    then, now = artifact.manifest.versions, tool_versions()
    other = [f"{name} {then[name]} then, {now.get(name, 'none')} now" for name in then if then[name] != now.get(name)]
    return [f"The stages were built again with other versions: {'; '.join(other)}."] if other else []


def _layers(
    chain: Sequence[tuple[str, Graph]], artifact: Artifact | None, samples: EvaluationSet, notes: list[str]
) -> tuple[LayerError, ...]:
    """The artifact's tensors against those of the float file that it was made from."""
    if len(chain) < 2 or artifact is None or artifact.manifest.int8 is None:
        return ()
    if artifact.manifest.inputs[0].dtype != "float32":
        notes.append(f"No error per layer: the file takes {artifact.manifest.inputs[0].dtype}.")
        return ()
    from edgeseg.stages.localise import tensor_errors

    image = next(iter(samples.load())).prepared.input
    errors = tensor_errors(chain[-2][1], chain[-1][1], image)
    return tuple(
        LayerError(tensor=name, snr_db=None if db == math.inf else round(db, 2))
        for name, db in errors.items()
        if db > -math.inf
    )

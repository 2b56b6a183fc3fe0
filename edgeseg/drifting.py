"""What compiling did to a model's predictions, and at which stage: one pass over the images with every file of the chain."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
from pathlib import Path

import numpy as np

from edgeseg.bench.device import CPU, Device
from edgeseg.data.groups import Groups, match_groups
from edgeseg.data.pairs import EvaluationSet, open_evaluation
from edgeseg.elsewhere import moved
from edgeseg.errors import DataError, UsageError
from edgeseg.metrics.calibration import Confidence, confidence_of
from edgeseg.metrics.counts import CountSettings
from edgeseg.metrics.drift import DriftAccumulator, Observed, summarize_drift
from edgeseg.preprocess import Int16, decide, load_image, restore
from edgeseg.remote.link import RemoteOptions
from edgeseg.report.overlay import Panel, class_colors, colorize, difference
from edgeseg.report.result import DriftReport, LayerError
from edgeseg.report.waterfall import Waterfall, build_waterfall
from edgeseg.session import infer
from edgeseg.spec import ModelSpec, OutputKind
from edgeseg.steps import Step, Way, given_way, is_equalised, rebuilt_way
from edgeseg.subject import LoadOptions, Subject, open_reference_of, open_subject

__all__ = [
    "Comparison",
    "DriftOptions",
    "compare_steps",
    "drift",
    "drift_with_counts",
    "open_comparison",
    "overlay_panels",
]


@dataclass(frozen=True)
class DriftOptions:
    """What ``drift`` takes beside the subject.

    Attributes:
        images, masks, regions: folders or globs in place of the spec's evaluation set.
        limit: this many images only, drawn by seed.
        groups: image name to group.
        waterfall: measure every file between the two: ``steps``, or for an artifact its chain built again.
        steps: name and path of each file between reference and subject, in order; see ``edgeseg.steps.given_way``.
        layers: how many images the tensors of the two last files are compared on; 0: they are not.
        threads: of the runtimes.
        worst: how many images to list.
        settings: resampling and intervals.
        load: how to load models and foreign files.
        device, remote: where the subject runs; everything else runs here.
        progress: called with what is going on, and steps done and in all.
    """

    images: str | None = None
    masks: str | None = None
    regions: str | None = None
    limit: int | None = None
    groups: Mapping[str, str] | None = None
    waterfall: bool = True
    steps: tuple[tuple[str, Path], ...] = ()
    layers: int = 4
    threads: int = 1
    worst: int = 6
    confidence: float = 0.95
    resamples: int = 2000
    seed: int = 0
    load: LoadOptions = field(default_factory=LoadOptions)
    device: Device = CPU
    remote: RemoteOptions = field(default_factory=RemoteOptions)
    progress: Callable[[str, int, int], None] = lambda _what, _done, _total: None


@dataclass(frozen=True)
class Comparison:
    """A subject, what it is compared with, and on which images."""

    subject: Subject
    reference: Subject
    samples: EvaluationSet


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
    if options.groups:
        match_groups(options.groups, (sample.name for sample in samples))  # a mistake is told before minutes of running
    found = open_reference_of(subject, reference, options.load)
    if found is None:
        raise UsageError(f"No reference model was found for '{path}'.", hint="Give the trained model with --reference.")
    return Comparison(moved(subject, options.device, options.remote, options.load), found, samples)


def drift(comparison: Comparison, options: DriftOptions | None = None) -> DriftReport:
    """Reference and subject on the same images; for an artifact every stage between them as well.

    Raises:
        EdgesegError: a file cannot be opened or run, or an image not read.
    """
    return drift_with_counts(comparison, options or DriftOptions())[0]


def drift_with_counts(comparison: Comparison, options: DriftOptions) -> tuple[DriftReport, Observed]:
    """As ``drift``, with the counts that it was computed from."""
    subject, reference, samples = comparison.subject, comparison.reference, comparison.samples
    groups = match_groups(options.groups, (sample.name for sample in samples)) if options.groups else Groups({})
    with tempfile.TemporaryDirectory(prefix="edgeseg-drift-") as work:
        way = _way(comparison, Path(work), options)
        steps = [Step("model", reference.open), *way.steps]
        seen, waterfall, runtimes = compare_steps(steps, samples, options)
        layers, notes = _layers(way, comparison, options)
    report = DriftReport(
        subject=subject.name,
        reference=reference.name,
        runtime=runtimes[-1],
        reference_runtime=runtimes[0],
        drift=summarize_drift(
            seen,
            groups=groups.of,
            confidence=options.confidence,
            resamples=options.resamples,
            seed=options.seed,
            worst=options.worst,
        ),
        waterfall=waterfall if len(steps) > 2 else None,
        layers=layers,
        notes=(*way.notes, *groups.notes, *notes),
    )
    return report, seen


def _way(comparison: Comparison, work: Path, options: DriftOptions) -> Way:
    subject = comparison.subject
    if not options.waterfall:
        return Way((Step("subject", subject.open),))
    if options.steps or subject.artifact is None:
        return given_way(subject, options.steps, options.load)
    return rebuilt_way(subject.artifact, subject, comparison.reference.path, work, options.load, options.progress)


def compare_steps(
    steps: Sequence[Step], samples: EvaluationSet, options: DriftOptions
) -> tuple[Observed, Waterfall, tuple[str, ...]]:
    """One pass with all steps' sessions: counts of the first and the last (of one step alone, twice its own), the waterfall, and
    what ran each step.

    Pictures are decoded ahead in a thread. Memory does not grow with the number of images but for their counts.

    Raises:
        DataError: there is no image, or one cannot be read.
    """
    spec = samples.spec
    probability = spec.output.kind is OutputKind.PROBABILITY
    with ExitStack() as stack:
        sessions = [stack.enter_context(step.open(options.threads)) for step in steps]
        runtimes = tuple(session.info.where for session in sessions)
        tally: _Tally | None = None
        for done, loaded in enumerate(samples.load(), start=1):
            labels, confidences, channels = [], [], []
            for index, session in enumerate(sessions):
                logits = restore(infer(session, loaded.prepared.input), loaded.prepared.placement, spec)
                channels.append(logits.shape[0])
                labels.append(decide(logits, spec))
                if index in {0, len(sessions) - 1}:
                    confidences.append(confidence_of(logits, probability=probability))
            tally = tally or _Tally(spec, channels)
            tally.add(loaded.sample.name, loaded.truth, labels, (confidences[0], confidences[-1]))
            options.progress("images", done, len(samples))
    if tally is None:
        raise DataError("There was no image to evaluate.", hint="Give images and masks with --images and --masks.")
    seen = tally.drift.compute()
    waterfall = build_waterfall(
        [step.stage for step in steps],
        runtimes,
        [seen.reference, *seen.between, seen.candidate][: len(steps)],
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
        self.drift = DriftAccumulator(
            CountSettings(classes=spec.classes.names),
            reference_extra=extras[0],
            candidate_extra=extras[-1],
            between_extra=extras[1:-1],
        )
        self.changed = np.zeros(len(channels) - 1, np.int64)
        self.counted = 0

    def add(self, name: str, truth: Int16, labels: Sequence[Int16], confidences: tuple[Confidence, Confidence]) -> None:
        self.drift.update(name, truth, labels[0], labels[-1], confidences, between=labels[1:-1])
        counted = truth >= 0
        self.counted += int(np.count_nonzero(counted))
        changed = [np.count_nonzero((before != after) & counted) for before, after in pairwise(labels)]
        self.changed += np.asarray(changed, np.int64)


def overlay_panels(comparison: Comparison, names: Sequence[str], threads: int = 1) -> Iterator[tuple[str, list[Panel]]]:
    """For each named image, in this order: image, truth, reference, subject and where the two differ."""
    spec = comparison.subject.spec
    chosen = {sample.name: sample for sample in comparison.samples}
    colors = class_colors(spec.classes)
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
                    Panel("changed", difference(image, loaded.truth, before, after)),
                ],
            )


def _layers(way: Way, comparison: Comparison, options: DriftOptions) -> tuple[tuple[LayerError, ...], list[str]]:
    """The subject's tensors against those of the file that it was made from, and what there is to say about them."""
    if way.before is None or way.after is None or not options.layers:
        return (), []
    from edgeseg.stages.localise import tensor_errors

    equalised = comparison.subject.artifact is not None and is_equalised(comparison.subject.artifact)
    images = (loaded.prepared.input for loaded in islice(comparison.samples.load(), options.layers))
    errors = tensor_errors(way.before, way.after, images, equalised=equalised)
    layers = tuple(
        LayerError(
            tensor=name, op=error.op, int8=error.int8, snr_db=None if error.snr_db == math.inf else round(error.snr_db, 2)
        )
        for name, error in errors.items()
        if error.snr_db > -math.inf
    )
    if not layers:
        return (), [f"No error per tensor: {way.before.path.name} and {way.after.path.name} name no tensor alike."]
    note = "Channels that equalisation enlarged are compared after undoing their factor, estimated from the tensors themselves."
    return layers, [note] if equalised else []

"""What conversion did to a model's predictions: reference and candidate in one pass over the evaluation set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from edgeseg.errors import DataError
from edgeseg.interval import Interval
from edgeseg.metrics.bootstrap import METHOD, MIN_IMAGES, paired_bootstrap
from edgeseg.metrics.calibration import BRIER, ECE, Confidence, calibration_counts, calibration_figures
from edgeseg.metrics.confusion import Labels, SegmentationScores, compute
from edgeseg.metrics.counts import CountSettings, ImageCounter, ImageCounts
from edgeseg.metrics.evidence import DICE, FIRST_CLASS, MIOU, PIXEL_ACCURACY, Delta, Evidence
from edgeseg.metrics.number import Score, defined

__all__ = [
    "CalibrationDrift",
    "ClassDrift",
    "DriftAccumulator",
    "DriftResult",
    "Flips",
    "GroupDrift",
    "ImageDrift",
    "Observed",
    "summarize_drift",
]


class ClassDrift(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One class. ``images``: how many contain it. The boundary scores have no interval of their own."""

    name: str
    images: int
    iou: Delta
    boundary_reference: Score
    boundary_candidate: Score

    def __post_init__(self) -> None:
        for name in ("boundary_reference", "boundary_candidate"):
            msgspec.structs.force_setattr(self, name, defined(getattr(self, name)))


class Flips(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Counted pixels whose class changed, as numbers of pixels. ``broken``: right before, wrong now; ``mended``: the converse.
    The rest of ``changed`` is wrong in both, in different ways."""

    pixels: int
    changed: int
    broken: int
    mended: int

    @property
    def share(self) -> float:
        """Changed pixels among all counted, 0..1."""
        return self.changed / self.pixels if self.pixels else 0.0


class CalibrationDrift(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Does confidence still mean what it says: expected calibration error and Brier score (see ``metrics.calibration``), 0..1, the
    smaller the better: here a positive ``change`` is a loss."""

    ece: Delta
    brier: Delta


class GroupDrift(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One group of images against all others.

    Attributes:
        miou: change of mIoU within the group.
        gap: (change within the group) - (change in the rest); None where either is too small. Its confidence is raised so that
            all groups together keep the level asked for (Bonferroni).
        finding: the gap's interval lies below 0: the loss falls on this group more than on the others.
    """

    name: str
    images: int
    miou: Delta
    gap: Interval | None
    finding: bool


class ImageDrift(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One image. ``influence``: what it adds to the change of mIoU (with it minus without it); negative where it makes the
    candidate look worse. ``accuracy_*``: its own pixel accuracy."""

    name: str
    influence: float
    accuracy_reference: Score
    accuracy_candidate: Score

    def __post_init__(self) -> None:
        for name in ("accuracy_reference", "accuracy_candidate"):
            msgspec.structs.force_setattr(self, name, defined(getattr(self, name)))


class DriftResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything about one candidate against its reference. All scores are fractions; a change is candidate - reference."""

    images: int
    method: str
    confidence: float
    resamples: int
    seed: int
    settings: CountSettings
    reference: SegmentationScores
    candidate: SegmentationScores
    miou: Delta
    mean_dice: Delta
    pixel_accuracy: Delta
    boundary_iou: Delta
    boundary_f: Delta
    small_object_recall: Delta
    small_objects: int
    classes: tuple[ClassDrift, ...]
    flips: Flips | None
    calibration: CalibrationDrift | None
    groups: tuple[GroupDrift, ...]
    worst_images: tuple[ImageDrift, ...]
    schema: int = 2


@dataclass(frozen=True)
class Observed:
    """What a pass over the evaluation set gives: counts of both and what needs both at once.

    Attributes:
        between: counts of the files between the two.
        calibration: float64 (N, 2, K), ``calibration_counts`` of each image for reference and candidate.
    """

    reference: ImageCounts
    candidate: ImageCounts
    flips: Flips | None = None
    between: tuple[ImageCounts, ...] = ()
    calibration: npt.NDArray[np.float64] | None = None


class DriftAccumulator:
    """Sees every image once. Memory grows by one confusion matrix and some counts an image and subject, not by pixels.

    Args:
        settings: classes, boundary radius, small objects.
        reference_extra: channels of the reference beyond the classes that count.
        candidate_extra: the candidate's.
        between_extra: of each file between the two.
    """

    def __init__(
        self,
        settings: CountSettings,
        *,
        reference_extra: int = 0,
        candidate_extra: int = 0,
        between_extra: tuple[int, ...] = (),
    ) -> None:
        self._counter = ImageCounter(settings, (reference_extra, *between_extra, candidate_extra))
        self._flips = np.zeros(4, np.int64)
        self._calibration: list[npt.NDArray[np.float64]] = []
        self._images = 0

    def update(
        self,
        name: str,
        truth: Labels,
        reference: Labels,
        candidate: Labels,
        confidences: tuple[Confidence, Confidence] | None = None,
        between: Sequence[Labels] = (),
    ) -> None:
        """Count one image, all arrays (H, W).

        Args:
            name: unique among the images.
            truth: int16, -1 where the pixel does not count.
            reference: int16, the reference's prediction.
            candidate: int16, the candidate's.
            confidences: of reference and candidate, from ``confidence_of``; for all images or for none.
            between: int16, predictions of the files between the two.
        """
        self._counter.update(name, truth, (reference, *between, candidate))
        counted = truth >= 0
        changed = (reference != candidate) & counted
        broken, mended = changed & (reference == truth), changed & (candidate == truth)
        self._flips += [np.count_nonzero(mask) for mask in (counted, changed, broken, mended)]
        self._images += 1
        if confidences is not None:
            sides = zip((reference, candidate), confidences, strict=True)
            self._calibration.append(np.stack([calibration_counts(truth, *side) for side in sides]))

    def compute(self) -> Observed:
        """Everything seen so far.

        Raises:
            DataError: no image, or confidences for some images only.
        """
        reference, *between, candidate = self._counter.compute()
        if len(self._calibration) not in {0, self._images}:
            raise DataError(
                f"{len(self._calibration)} of {self._images} images have confidences.", hint="Give them for all or none."
            )
        pixels, changed, broken, mended = map(int, self._flips)
        return Observed(
            reference,
            candidate,
            Flips(pixels=pixels, changed=changed, broken=broken, mended=mended),
            tuple(between),
            np.stack(self._calibration) if self._calibration and pixels else None,
        )


def summarize_drift(
    observed: Observed,
    *,
    groups: Mapping[str, str] | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    worst: int = 10,
) -> DriftResult:
    """Scores, changes and intervals.

    Args:
        groups: image name to group; images that are not in it form no group.
        worst: how many images to list.

    Raises:
        DataError: the two sets of counts cannot be paired, or ``groups`` names none of the images.
    """
    evidence = Evidence.pair(observed.reference, observed.candidate, resamples=resamples, seed=seed)
    return DriftResult(
        images=evidence.images,
        method=METHOD,
        confidence=confidence,
        resamples=resamples,
        seed=seed,
        settings=evidence.reference.settings,
        reference=compute(evidence.reference.total),
        candidate=compute(evidence.candidate.total),
        miou=evidence.delta(MIOU, confidence),
        mean_dice=evidence.delta(DICE, confidence),
        pixel_accuracy=evidence.delta(PIXEL_ACCURACY, confidence),
        boundary_iou=evidence.boundary_delta(0, confidence),
        boundary_f=evidence.boundary_delta(1, confidence),
        small_object_recall=evidence.small_object_delta(confidence),
        small_objects=int(evidence.reference.small[:, 0].sum()),
        classes=_classes(evidence, confidence),
        flips=observed.flips,
        calibration=_calibration(observed.calibration, confidence, resamples, seed)
        if observed.calibration is not None
        else None,
        groups=_groups(evidence, groups, confidence) if groups else (),
        worst_images=_worst(evidence, worst),
    )


def _calibration(counts: npt.NDArray[np.float64], confidence: float, resamples: int, seed: int) -> CalibrationDrift:
    images = len(counts)
    before, after = (calibration_figures(counts[:, side].sum(axis=0)) for side in (0, 1))
    informed = np.full(2, np.count_nonzero(counts[:, 0].sum(axis=1)))

    def change(sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        halves = np.split(sums, 2, axis=-1)
        return calibration_figures(halves[1]) - calibration_figures(halves[0])

    found = paired_bootstrap(counts.reshape(images, -1), change, support=informed, resamples=resamples, seed=seed)
    ece, brier = (
        Delta(
            reference=float(before[figure]),
            candidate=float(after[figure]),
            change=float(after[figure] - before[figure]),
            interval=found.interval(figure, confidence),
        )
        for figure in (ECE, BRIER)
    )
    return CalibrationDrift(ece=ece, brier=brier)


def _classes(evidence: Evidence, confidence: float) -> tuple[ClassDrift, ...]:
    support = evidence.segmentation.support
    bands = [side.boundary.sum(axis=0).astype(np.float64) for side in (evidence.reference, evidence.candidate)]
    return tuple(
        ClassDrift(
            name=name,
            images=int(support[FIRST_CLASS + c]),
            iou=evidence.delta(FIRST_CLASS + c, confidence),
            boundary_reference=_share(bands[0][:, c]),
            boundary_candidate=_share(bands[1][:, c]),
        )
        for c, name in enumerate(evidence.reference.settings.classes)
    )


def _share(pair: Sequence[float]) -> float:
    return float(pair[0] / pair[1]) if pair[1] else float("nan")


def _groups(evidence: Evidence, groups: Mapping[str, str], confidence: float) -> tuple[GroupDrift, ...]:
    member = np.array([groups.get(name, "") for name in evidence.reference.names])
    found = sorted(set(member) - {""})
    if not found:
        raise DataError("The groups name none of the images.", hint="The first column must hold the images' stems.")
    level = 1.0 - (1.0 - confidence) / len(found)
    results = []
    for name in found:
        # Seeds of their own make the draws of the two independent.
        inside = _subset(evidence, np.flatnonzero(member == name), evidence.seed)
        rest = _subset(evidence, np.flatnonzero(member != name), evidence.seed + 1)
        gap = _gap(inside, rest, level) if min(inside.images, rest.images) >= MIN_IMAGES else None
        results.append(
            GroupDrift(
                name=str(name),
                images=inside.images,
                miou=inside.delta(MIOU, confidence),
                gap=gap,
                finding=gap is not None and gap.high < 0.0,
            )
        )
    return tuple(results)


def _subset(evidence: Evidence, index: npt.NDArray[np.intp], seed: int) -> Evidence:
    return Evidence(evidence.reference.select(index), evidence.candidate.select(index), evidence.resamples, seed)


def _gap(inside: Evidence, rest: Evidence, confidence: float) -> Interval | None:
    """Percentile interval of the difference of two independent changes, resampled apart."""
    estimate = float(inside.segmentation.estimate[MIOU] - rest.segmentation.estimate[MIOU])
    drawn = inside.segmentation.resamples[:, MIOU] - rest.segmentation.resamples[:, MIOU]
    drawn = drawn[~np.isnan(drawn)]
    if np.isnan(estimate) or not drawn.size:
        return None
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(drawn, (tail, 1.0 - tail))
    return Interval(estimate=estimate, low=min(float(low), estimate), high=max(float(high), estimate), confidence=confidence)


def _worst(evidence: Evidence, count: int) -> tuple[ImageDrift, ...]:
    influence = np.nan_to_num(evidence.segmentation.influence(MIOU))
    accuracy = [_image_accuracy(side) for side in (evidence.reference, evidence.candidate)]
    return tuple(
        ImageDrift(
            name=evidence.reference.names[i],
            influence=float(influence[i]),
            accuracy_reference=float(accuracy[0][i]),
            accuracy_candidate=float(accuracy[1][i]),
        )
        for i in np.argsort(influence, kind="stable")[:count]
        if influence[i] < 0.0
    )


def _image_accuracy(counts: ImageCounts) -> list[float]:
    overlap = counts.overlap.sum(axis=2)
    return [tp / (tp + fn) if tp + fn else float("nan") for tp, fn in overlap[:, :2].tolist()]

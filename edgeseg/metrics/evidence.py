"""Reference and candidate on the same images, and every figure about their difference with its interval."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from edgeseg.errors import DataError
from edgeseg.interval import Interval
from edgeseg.metrics.bootstrap import Bootstrap, Figures, paired_bootstrap
from edgeseg.metrics.counts import ImageCounts
from edgeseg.metrics.number import Score, defined, ratio

__all__ = ["DICE", "FIRST_CLASS", "MIOU", "PIXEL_ACCURACY", "Delta", "Evidence"]

Float64: TypeAlias = npt.NDArray[np.float64]
Int64: TypeAlias = npt.NDArray[np.int64]

MIOU, DICE, PIXEL_ACCURACY, FIRST_CLASS = 0, 1, 2, 3
"""Columns of ``Evidence.segmentation``; class c is column ``FIRST_CLASS + c``."""


class Delta(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One score of both, as fractions; ``change`` is candidate - reference, negative where the candidate is worse.

    ``interval`` is of the change; None where too few images carry the information for one.
    """

    reference: Score
    candidate: Score
    change: Score
    interval: Interval | None = None

    def __post_init__(self) -> None:
        for name in ("reference", "candidate", "change"):
            msgspec.structs.force_setattr(self, name, defined(getattr(self, name)))


@dataclass(frozen=True)
class Evidence:
    """Per-image counts of both, paired, from which intervals of any confidence follow.

    Args:
        reference: counts of the reference.
        candidate: counts over the same images in the same order; :meth:`pair` brings them into it.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """

    reference: ImageCounts
    candidate: ImageCounts
    resamples: int = 2000
    seed: int = 0

    @classmethod
    def pair(cls, reference: ImageCounts, candidate: ImageCounts, *, resamples: int = 2000, seed: int = 0) -> Evidence:
        """Pair by image name.

        Raises:
            DataError: other images, classes or settings; the message says which.
        """
        if reference.settings != candidate.settings:
            raise DataError(
                f"The counts differ in what was counted: {reference.settings} against {candidate.settings}.",
                hint="Evaluate both with the same classes and settings, or write the baseline again.",
            )
        if set(reference.names) != set(candidate.names):
            odd = sorted(set(reference.names) ^ set(candidate.names))
            raise DataError(
                f"The counts are of different images: {len(odd)} are in one only, '{odd[0]}' for example.",
                hint="Evaluate both on the same images, or write the baseline again.",
            )
        place = {name: i for i, name in enumerate(candidate.names)}
        order = np.array([place[name] for name in reference.names], np.intp)
        aligned = candidate.select(order)
        if not np.array_equal(reference.confusion.sum(axis=2), aligned.confusion.sum(axis=2)):
            raise DataError(
                "The counts are of images with the same names and another truth.",
                hint="The masks have changed: write the baseline again.",
            )
        return cls(reference, aligned, resamples, seed)

    @property
    def images(self) -> int:
        return len(self.reference.names)

    @cached_property
    def segmentation(self) -> Bootstrap:
        """Changes of mIoU, mean Dice, pixel accuracy and each class's IoU, in this order."""
        in_truth = self.reference.confusion.sum(axis=2) > 0
        counted = np.count_nonzero(in_truth.any(axis=1))
        support = np.concatenate((np.full(FIRST_CLASS, counted), np.count_nonzero(in_truth, axis=0)))
        classes = self.reference.num_classes

        def figures(sums: Float64) -> Float64:
            halves = np.split(sums, 2, axis=-1)
            return segmentation_figures(halves[1], classes) - segmentation_figures(halves[0], classes)

        return self._bootstrap(self.reference.overlap, self.candidate.overlap, figures, support)

    @cached_property
    def boundary(self) -> Bootstrap:
        """Changes of mean boundary IoU and mean boundary F-score."""
        has_contour = np.count_nonzero(self.reference.contour[:, 3].sum(axis=1) > 0)

        def figures(sums: Float64) -> Float64:
            halves = np.split(sums, 2, axis=-1)
            return boundary_figures(halves[1]) - boundary_figures(halves[0])

        return self._bootstrap(_contours(self.reference), _contours(self.candidate), figures, np.full(2, has_contour))

    @cached_property
    def small_objects(self) -> Bootstrap:
        """Change of the recall of small objects, all classes together."""
        has_small = np.count_nonzero(self.reference.small[:, 0].sum(axis=1) > 0)

        def figures(sums: Float64) -> Float64:
            total, before, _, after = np.split(sums, 4, axis=-1)
            return ratio((after - before).sum(axis=-1, keepdims=True), total.sum(axis=-1, keepdims=True))

        return self._bootstrap(self.reference.small, self.candidate.small, figures, np.full(1, has_small))

    def _bootstrap(self, reference: Int64, candidate: Int64, figures: Figures, support: Int64) -> Bootstrap:
        rows = np.concatenate((reference.reshape(self.images, -1), candidate.reshape(self.images, -1)), axis=1)
        return paired_bootstrap(rows, figures, support=support, resamples=self.resamples, seed=self.seed)

    def delta(self, figure: int, confidence: float = 0.95) -> Delta:
        """mIoU, Dice, pixel accuracy or a class's IoU, by its column of :attr:`segmentation`."""
        classes = self.reference.num_classes
        before, after = (
            segmentation_figures(side.overlap.sum(axis=0).ravel().astype(np.float64), classes)[figure]
            for side in (self.reference, self.candidate)
        )
        return _delta(before, after, self.segmentation.interval(figure, confidence))

    def boundary_delta(self, figure: int = 0, confidence: float = 0.95) -> Delta:
        """Mean boundary IoU (0) or mean boundary F-score (1)."""
        before, after = (
            boundary_figures(_contours(side).sum(axis=0).ravel().astype(np.float64))[figure]
            for side in (self.reference, self.candidate)
        )
        return _delta(before, after, self.boundary.interval(figure, confidence))

    def small_object_delta(self, confidence: float = 0.95) -> Delta:
        """Recall of small objects."""
        before, after = (_recall(side.small) for side in (self.reference, self.candidate))
        return _delta(before, after, self.small_objects.interval(0, confidence))


def segmentation_figures(sums: Float64, classes: int) -> Float64:
    """Sums (..., 3 C) of true positives, false negatives and false positives to (..., 3 + C): mIoU, mean Dice, pixel accuracy and
    IoU per class. NaN and means as in :mod:`edgeseg.metrics.confusion`."""
    tp, fn, fp = sums[..., :classes], sums[..., classes : 2 * classes], sums[..., 2 * classes :]
    iou, dice = ratio(tp, tp + fn + fp), ratio(2 * tp, 2 * tp + fn + fp)
    accuracy = ratio(tp.sum(axis=-1, keepdims=True), (tp + fn).sum(axis=-1, keepdims=True))
    return np.concatenate((_mean(iou), _mean(dice), accuracy, iou), axis=-1)


def boundary_figures(sums: Float64) -> Float64:
    """Sums (..., 6 C) of ``boundary`` and ``contour`` counts to (..., 2): mean boundary IoU, mean boundary F-score."""
    intersection, union, hit, predicted, found, true = np.split(sums, 6, axis=-1)
    iou = ratio(intersection, union)
    # With precision = hit / predicted and recall = found / true, a class that one side lacks has F = 0, one that both lack none.
    precision, recall = np.nan_to_num(ratio(hit, predicted)), np.nan_to_num(ratio(found, true))
    f_score = np.nan_to_num(ratio(2 * precision * recall, precision + recall))
    f_score[(predicted + true) == 0] = np.nan
    return np.concatenate((_mean(iou), _mean(f_score)), axis=-1)


def _contours(counts: ImageCounts) -> Int64:
    return np.concatenate((counts.boundary, counts.contour), axis=1)


def _recall(small: Int64) -> float:
    objects, found = small.sum(axis=(0, 2))
    return float(found / objects) if objects else float("nan")


def _delta(before: float, after: float, interval: Interval | None) -> Delta:
    return Delta(reference=float(before), candidate=float(after), change=float(after - before), interval=interval)


def _mean(values: Float64) -> Float64:
    """Mean over the last axis, kept, of what is not NaN; NaN where nothing is."""
    present = ~np.isnan(values)
    return ratio(
        np.where(present, values, 0.0).sum(axis=-1, keepdims=True), present.sum(axis=-1, keepdims=True).astype(np.float64)
    )

"""The mIoU that a change costs, estimated without labels.

The reference's own class probabilities stand in for the truth: a pixel that the reference gives to class 3 with 0.6 and to
class 5 with 0.4 counts 0.6 and 0.4 in rows 3 and 5 of the confusion matrix. A changed decision on a pixel where the
reference is unsure then costs little, on a pixel where it is sure a whole pixel: unlike plain agreement, the result is in
points of mIoU. The reference's own decisions are the best possible under this truth, so the estimated drop is never
negative, and a network that is too sure of itself makes the estimate too large rather than too small.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgeseg.metrics.confusion import class_iou
from edgeseg.session import Float32

__all__ = ["CAUTION", "ExpectedDrop"]

CAUTION = 0.6
"""Share of a budget that a loss estimated here may use up: calibration images are often training images, on which a network
is surer than on others."""

Float64 = npt.NDArray[np.float64]


class ExpectedDrop:
    """Accumulates images; ``drop`` gives points of mIoU, ``agreement`` the share of equal decisions.

    Args:
        threshold: of a one-channel output, in the output's domain (0 for a logit cut at probability 0.5).
        probability: a one-channel output holds probabilities, not logits.
    """

    def __init__(self, *, threshold: float = 0.0, probability: bool = False) -> None:
        self._threshold = threshold
        self._probability = probability
        self._reference: Float64 | None = None
        self._candidate: Float64 | None = None
        self._equal = self._compared = 0

    def update(self, reference: Float32, candidate: Float32) -> None:
        """Add one image, both float32 (1, C, h, w)."""
        truth = self._truth(reference)
        before_after = self._decide(reference), self._decide(candidate)
        self._equal += int(np.count_nonzero(before_after[0] == before_after[1]))
        self._compared += before_after[0].size
        for held, decision in zip(("_reference", "_candidate"), before_after, strict=True):
            matrix = _soft_confusion(truth, decision)
            before = getattr(self, held)
            setattr(self, held, matrix if before is None else before + matrix)

    @property
    def drop(self) -> float:
        """Expected mIoU of the reference minus that of the candidate, in points; nan before the first image."""
        if self._reference is None or self._candidate is None:
            return float("nan")
        # A class that the reference never gives has no meaningful expected IoU: its rows hold only the tails of other classes.
        seen = self._reference.sum(axis=0) > 0
        before, after = class_iou(self._reference)[seen], class_iou(self._candidate)[seen]
        return 100.0 * float(np.nanmean(before) - np.nanmean(after))

    @property
    def agreement(self) -> float:
        """Share of pixels on which both decide alike; nan before the first image."""
        return self._equal / self._compared if self._compared else float("nan")

    def _truth(self, logits: Float32) -> Float32:
        """Class probabilities, float32 (C, h * w)."""
        plane = logits[0].reshape(logits.shape[1], -1)
        if plane.shape[0] == 1:
            foreground = plane[0] if self._probability else 1.0 / (1.0 + np.exp(-plane[0]))
            return np.stack([1.0 - foreground, foreground]).astype(np.float32)
        shifted = np.exp(plane - plane.max(axis=0))
        return np.asarray(shifted / shifted.sum(axis=0), np.float32)

    def _decide(self, logits: Float32) -> npt.NDArray[np.intp]:
        plane = logits[0].reshape(logits.shape[1], -1)
        labels: npt.NDArray[np.intp]
        labels = (plane[0] > self._threshold).astype(np.intp) if plane.shape[0] == 1 else np.argmax(plane, axis=0)
        return labels


def _soft_confusion(truth: Float32, decision: npt.NDArray[np.intp]) -> Float64:
    """float64 (C, C): row = class by probability, column = decision."""
    classes = truth.shape[0]
    return np.stack([np.bincount(decision, weights=row, minlength=classes) for row in truth])

"""Does the confidence of a prediction mean what it says?"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edgeseg.metrics.confusion import Labels
from edgeseg.session import Float32

__all__ = ["Calibration", "confidence_of"]

Confidence: TypeAlias = npt.NDArray[np.float32]


def confidence_of(logits: Float32, *, probability: bool = False) -> Confidence:
    """Probability of the winning class per pixel, float32 (H, W), from logits (C, H, W).

    Several channels: the largest softmax. One channel: ``max(p, 1 - p)`` of its sigmoid, or of the value itself where the model has
    applied the sigmoid (``probability``).
    """
    if logits.shape[0] == 1:
        p = logits[0] if probability else 1.0 / (1.0 + np.exp(-np.abs(logits[0])))
        single: Confidence = np.maximum(p, 1.0 - p)
        return single
    confidence: Confidence = 1.0 / np.exp(logits - logits.max(axis=0)).sum(axis=0)
    return confidence


class Calibration:
    """Expected calibration error over pixels (Guo et al. 2017, arXiv:1706.04599, equation 3).

    Pixels fall into ``bins`` bins of equal width by confidence; ``ECE = sum(n_b / n * |accuracy_b - confidence_b|)``.
    """

    def __init__(self, bins: int = 15) -> None:
        self.count = np.zeros(bins, np.int64)
        self.correct = np.zeros(bins, np.int64)
        self.confidence = np.zeros(bins, np.float64)

    def update(self, truth: Labels, prediction: Labels, confidence: Confidence) -> None:
        """Add one image, all (H, W); pixels whose truth is -1 do not count."""
        counted = truth >= 0
        value = confidence[counted]
        bins = self.count.size
        # Bins are open below and closed above, as in the paper.
        place = np.clip(np.ceil(value * bins).astype(np.int64) - 1, 0, bins - 1)
        self.count += np.bincount(place, minlength=bins)
        self.correct += np.bincount(place[(truth == prediction)[counted]], minlength=bins)
        self.confidence += np.bincount(place, weights=value, minlength=bins)

    def compute(self) -> float:
        """ECE in 0..1, NaN where nothing was counted."""
        total = self.count.sum()
        return float(np.abs(self.correct - self.confidence).sum() / total) if total else float("nan")

"""Does the confidence of a prediction mean what it says?"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edgeseg.metrics.confusion import Labels
from edgeseg.metrics.number import ratio
from edgeseg.session import Float32

__all__ = ["BRIER", "ECE", "calibration_counts", "calibration_figures", "confidence_of"]

Confidence: TypeAlias = npt.NDArray[np.float32]
Float64: TypeAlias = npt.NDArray[np.float64]

ECE, BRIER = 0, 1
"""Columns of :func:`calibration_figures`."""

_BINS = 15


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


def calibration_counts(truth: Labels, prediction: Labels, confidence: Confidence, bins: int = _BINS) -> Float64:
    """One image's sums, float64 (3 * bins + 1,): pixels, right pixels and confidence of each bin, then the squared error of the
    confidence as a forecast of being right. They add up over images.

    Pixels fall into ``bins`` bins of equal width by confidence. All arrays (H, W); pixels whose truth is -1 do not count.
    """
    counted = truth >= 0
    value = confidence[counted]
    right = (truth == prediction)[counted]
    # Bins are open below and closed above, as in the paper.
    place = np.clip(np.ceil(value * bins).astype(np.int64) - 1, 0, bins - 1)
    miss = np.where(right, 1.0 - value, value)
    return np.concatenate(
        (
            np.bincount(place, minlength=bins),
            np.bincount(place[right], minlength=bins),
            np.bincount(place, weights=value, minlength=bins),
            [np.einsum("i,i->", miss, miss, dtype=np.float64)],
        )
    )


def calibration_figures(sums: Float64) -> Float64:
    """Sums (..., 3 * bins + 1) of :func:`calibration_counts` to (..., 2), each 0..1 and smaller for the better,
    NaN where nothing was counted:

    - the expected calibration error ``sum(n_b / n * |accuracy_b - confidence_b|)`` (Guo et al. 2017, arXiv:1706.04599, equation 3);
    - the Brier score of the confidence as the forecast that the decision is right, ``mean((confidence - right)^2)`` (Brier 1950,
      Monthly Weather Review 78). It is a proper score: it cannot be improved by saying anything but what one believes.
    """
    count, right, confidence = np.split(sums[..., :-1], 3, axis=-1)
    total = count.sum(axis=-1)
    return np.stack((ratio(np.abs(right - confidence).sum(axis=-1), total), ratio(sums[..., -1], total)), axis=-1)

"""How well contours are met, all classes in one pass over a label map.

**Boundary IoU** (Cheng et al. 2021, arXiv:2103.16562, equation 1) is the IoU of two bands: the pixels of a class that are
within ``radius`` of the class's contour, in truth and in prediction. Distances are those of the square neighbourhood
(Chebyshev), as in repeated 3x3 erosion. A pixel is in its own class's band exactly if the square around it holds another class,
so two sliding filters over the label map find the bands of all classes.

**Boundary F-score** (Csurka et al. 2013, What is a good evaluation measure for semantic segmentation?, BMVC): precision is the
share of predicted contour pixels with a true contour pixel of the same class within ``radius``, recall the converse,
``F = 2 P R / (P + R)``.

Two choices differ from the papers: the border of the image is not a contour (an object cut by it has no edge there), and nor is the
edge of a region that the truth ignores. Pixels whose truth is ignored do not count, here as everywhere.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edgeseg.metrics.confusion import Labels
from edgeseg.metrics.windows import square_filter

__all__ = ["band", "boundary_counts", "contour_counts", "default_radius"]

Bool: TypeAlias = npt.NDArray[np.bool_]
Int64: TypeAlias = npt.NDArray[np.int64]
Word: TypeAlias = np.unsignedinteger

_IGNORED = -1
_LARGE = np.iinfo(np.int16).max
_WORDS: tuple[tuple[int, type[Word]], ...] = ((16, np.uint16), (32, np.uint32), (64, np.uint64))


def default_radius(height: int, width: int) -> int:
    """0.5 % of the image's diagonal, at least 1 pixel.

    Cheng et al. 2021 use 2 % on COCO, whose outlines are coarse polygons; the wider the band, the closer the score is to plain IoU.

    >>> default_radius(360, 480)
    3
    """
    return max(1, round(0.005 * float(np.hypot(height, width))))


def band(labels: Labels, radius: int) -> Bool:
    """Pixels within ``radius`` of another class. ``labels``: int16 (H, W), -1 where nothing counts; never in the band."""
    highest = square_filter(labels, radius, np.maximum, _IGNORED)
    lowest = square_filter(np.where(labels == _IGNORED, _LARGE, labels), radius, np.minimum, _LARGE)
    inside: Bool = (labels != _IGNORED) & (lowest != highest)
    return inside


def boundary_counts(truth: Labels, prediction: Labels, num_classes: int, radius: int) -> Int64:
    """Intersection and union of the bands, int64 (2, num_classes), of one image.

    Args:
        truth: int16 (H, W), -1 where the pixel does not count.
        prediction: int16 (H, W); indices from ``num_classes`` on have no truth.
    """
    counted = np.where(truth == _IGNORED, np.int16(_IGNORED), prediction)
    in_truth, in_prediction = band(truth, radius), band(counted, radius)
    common = truth[in_truth & in_prediction & (truth == counted)]
    intersection = _histogram(common, num_classes)
    union = _histogram(truth[in_truth], num_classes) + _histogram(counted[in_prediction], num_classes) - intersection
    return np.stack((intersection, union))


def contour_counts(truth: Labels, prediction: Labels, num_classes: int, radius: int) -> Int64:
    """Contour pixels of one image, int64 (4, num_classes): predicted and matched, predicted, true and matched, true.

    Precision is row 0 / row 1, recall row 2 / row 3. Arguments as for :func:`boundary_counts`.
    """
    counted = np.where(truth == _IGNORED, np.int16(_IGNORED), prediction)
    on_truth, on_prediction = band(truth, 1), band(counted, 1)
    predicted, true = counted[on_prediction], truth[on_truth]
    predicted_hit = _near(truth, on_truth, counted, on_prediction, num_classes, radius)
    true_hit = _near(counted, on_prediction, truth, on_truth, num_classes, radius)
    return np.stack(
        (
            _histogram(predicted[predicted_hit], num_classes),
            _histogram(predicted, num_classes),
            _histogram(true[true_hit], num_classes),
            _histogram(true, num_classes),
        )
    )


def _near(target: Labels, on_target: Bool, query: Labels, on_query: Bool, num_classes: int, radius: int) -> Bool:
    """For each query contour pixel, whether a target contour pixel of its class is within ``radius``.

    One bit a class: a sliding OR over words spreads the contours of up to 64 classes at once.
    """
    asked = query[on_query]
    found = np.zeros(asked.shape, np.bool_)
    for first in range(0, num_classes, 64):
        classes = min(num_classes - first, 64)
        word = next(kind for bits, kind in _WORDS if classes <= bits)
        member = on_target & (target >= first) & (target < first + classes)
        # Out of range shifts only where ``member`` is False; they are clipped first and zeroed after.
        shift = np.clip(target - first, 0, classes - 1).astype(word)
        bits = np.where(member, np.left_shift(word(1), shift), word(0)).astype(word)
        spread = square_filter(bits, radius, np.bitwise_or, 0)[on_query]
        mine = (asked >= first) & (asked < first + classes)
        place = np.clip(asked - first, 0, classes - 1).astype(word)
        found |= mine & (((spread >> place) & word(1)) == 1)
    return found


def _histogram(labels: npt.NDArray[np.int16], num_classes: int) -> Int64:
    counts: Int64 = np.bincount(labels, minlength=num_classes)[:num_classes]
    return counts

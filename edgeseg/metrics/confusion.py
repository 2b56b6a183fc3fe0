"""Confusion matrices and the scores that follow from them.

A confusion matrix here is int64 ``(C, C + extra)``: row = truth, column = prediction, entry = number of pixels. ``C`` is the
number of classes that count; the ``extra`` columns are predictions of channels that have no truth (a model's own void class).

What counts:

- a pixel whose truth is ignored (``-1``) does not count at all, whatever was predicted there;
- a prediction of a class without truth on a counted pixel is an error: it enters the union of the true class;
- scores come from one matrix over the whole data set, never from a mean over images;
- a class absent from truth and prediction has no score: NaN, not 0 or 1, and it does not enter a mean.

With ``tp = m[c, c]``, ``fn = sum(m[c, :]) - tp``, ``fp = sum(m[:, c]) - tp``:
``IoU = tp / (tp + fp + fn)`` (Everingham et al. 2010, The Pascal Visual Object Classes Challenge, IJCV 88, section 4.2's
segmentation accuracy), ``Dice = 2 tp / (2 tp + fp + fn)``, ``pixel accuracy = sum(tp) / sum(m)``.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from edgeseg.errors import DataError
from edgeseg.metrics.number import Score, defined, nan_mean, ratio

__all__ = ["Confusion", "Labels", "Matrix", "SegmentationScores", "class_dice", "class_iou", "compute", "empty", "update"]

Labels: TypeAlias = npt.NDArray[np.int16]
Matrix: TypeAlias = npt.NDArray[np.int64]
Float64: TypeAlias = npt.NDArray[np.float64]
Codes: TypeAlias = npt.NDArray[np.uint16] | npt.NDArray[np.int64]

# Pixels counted at a time: what is made on the way stays in the cache.
_BLOCK = 1 << 18
_BYTE = 256
_SPAN, _SPANS = 512, 8  # neighbours that are looked at to see whether a block is made of regions


class SegmentationScores(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Scores of one confusion matrix, as fractions in 0..1. In JSON an undefined score (NaN here) is null.

    Attributes:
        miou: mean of ``iou`` over the classes that have one.
        iou: one value a class; NaN where the class is absent from truth and prediction.
        mean_dice: mean of ``dice`` over the classes that have one.
        dice: one value a class, NaN as for ``iou``.
        pixel_accuracy: share of the counted pixels that are right.
        pixels: counted pixels.
    """

    miou: Score
    iou: tuple[Score, ...]
    mean_dice: Score
    dice: tuple[Score, ...]
    pixel_accuracy: Score
    pixels: int

    def __post_init__(self) -> None:
        for name in ("miou", "mean_dice", "pixel_accuracy"):
            msgspec.structs.force_setattr(self, name, defined(getattr(self, name)))
        for name in ("iou", "dice"):
            msgspec.structs.force_setattr(self, name, tuple(map(defined, getattr(self, name))))


def empty(num_classes: int, extra: int = 0) -> Matrix:
    """A matrix of zeros, int64 (num_classes, num_classes + extra)."""
    return np.zeros((num_classes, num_classes + extra), np.int64)


def update(confusion: Matrix, truth: Labels, prediction: Labels) -> None:
    """Count one image into ``confusion``, in place.

    Args:
        confusion: int64 (C, C + extra).
        truth: int16, any shape; class index, or -1 where the pixel does not count.
        prediction: int16, the same shape; index of the winning channel.

    Raises:
        DataError: the shapes differ, or an index has no row or column.

    >>> m = empty(2)
    >>> update(m, np.array([[0, 1, -1]], np.int16), np.array([[0, 0, 1]], np.int16))
    >>> m.tolist()
    [[1, 0], [1, 0]]
    """
    rows, columns = confusion.shape
    if truth.shape != prediction.shape:
        raise DataError(
            f"The truth is {truth.shape} and the prediction {prediction.shape}: they must have the same size.",
            hint="Check the spec's resize policy and output stride.",
        )
    flat_truth, flat_prediction = _unsigned(truth, "truth"), _unsigned(prediction, "prediction")
    cells = (rows + 1) * columns
    # Fresh memory costs a page fault every 4 kB, more than the arithmetic: each block is coded in the same place.
    scratch = np.empty(min(_BLOCK, truth.size), np.uint16)
    # Codes of one byte are counted all at once: Pillow answers with a list of 1024 numbers, which takes 50 us to read.
    narrow = np.empty(truth.size if cells <= _BYTE else 0, np.uint8)
    for start in range(0, truth.size, _BLOCK):
        block = slice(start, start + _BLOCK)
        # As unsigned, -1 + 1 wraps to row 0, which collects the ignored pixels and is thrown away below; a negative index
        # elsewhere becomes a huge one. One comparison with the maximum then finds every index that is out of range.
        column = flat_prediction[block]
        row = np.add(flat_truth[block], np.uint16(1), out=scratch[: column.size])
        if int(row.max()) > rows:
            raise DataError(
                f"The truth holds class indices {int(truth.min())} to {int(truth.max())}, the spec has {rows} classes.",
                hint="Give every class that counts a name in edgeseg.toml, and every other value as ignore_index.",
            )
        if int(column.max()) >= columns:
            raise DataError(
                f"The prediction holds {int(prediction.min())} to {int(prediction.max())}, expected 0 to {columns - 1}.",
                hint="Check that the output's channels are the spec's classes, in its order.",
            )
        code: Codes = row if cells <= 1 << 16 else row.astype(np.int64)
        code *= code.dtype.type(columns)
        code += column
        if narrow.size:
            narrow[block] = code
        else:
            confusion += _histogram(code, cells).reshape(rows + 1, columns)[1:]
    if narrow.size:
        confusion += _count_bytes(narrow)[:cells].reshape(rows + 1, columns)[1:]


def _unsigned(labels: Labels, name: str) -> npt.NDArray[np.uint16]:
    if labels.dtype != np.int16:
        raise DataError(f"The {name} is {labels.dtype}, not int16.", hint="Convert it with .astype(np.int16).")
    return labels.ravel().view(np.uint16)


def _histogram(codes: Codes, cells: int) -> npt.NDArray[np.int64]:
    """Histogram int64 (cells,) of codes below ``cells``."""
    # Counting costs more than comparing, and masks are made of regions: runs are counted, each with its length.
    return _count_runs(codes, cells) if _is_made_of_regions(codes) else np.bincount(codes, minlength=cells)


def _is_made_of_regions(codes: Codes) -> bool:
    """In a few spans fewer than one neighbour in five differs. Either answer gives the same counts."""
    step = max(codes.size // _SPANS, 1)
    spans = [codes[start : start + _SPAN] for start in range(0, codes.size, step)]
    changes = sum(int(np.count_nonzero(span[1:] != span[:-1])) for span in spans)
    return 5 * changes < sum(span.size for span in spans)


def _count_runs(codes: Codes, cells: int) -> npt.NDArray[np.int64]:
    """Histogram of codes from their runs. Float64 sums are exact below 2^53."""
    last = np.append(np.flatnonzero(codes[1:] != codes[:-1]), codes.size - 1)
    length = np.diff(last, prepend=-1)
    return np.bincount(codes[last], weights=length, minlength=cells).astype(np.int64)


def _count_bytes(codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Histogram int64 (256,) of bytes, by Pillow: numpy's bincount makes 8 bytes of each first. Read as a picture of four channels,
    neighbours are counted in tables of their own, so that equal ones do not wait for each other."""
    from PIL import Image

    whole = codes.size // 4 * 4
    counts: Matrix = np.bincount(codes[whole:], minlength=_BYTE)
    if whole:
        picture = Image.frombuffer("RGBA", (whole // 4, 1), codes[:whole], "raw", "RGBA", 0, 1)
        counts += np.array(picture.histogram(), np.int64).reshape(4, _BYTE).sum(axis=0)
    return counts


def class_iou(confusion: npt.NDArray[np.integer] | Float64) -> Float64:
    """IoU per class of one matrix or a stack of them: (..., C, C + extra) to float64 (..., C), NaN where absent."""
    true_positive, union = _overlap(confusion)
    return ratio(true_positive, union)


def class_dice(confusion: npt.NDArray[np.integer] | Float64) -> Float64:
    """Dice per class of one matrix or a stack of them: (..., C, C + extra) to float64 (..., C), NaN where absent."""
    true_positive, union = _overlap(confusion)
    return ratio(2 * true_positive, union + true_positive)


def _overlap(confusion: npt.NDArray[np.integer] | Float64) -> tuple[Float64, Float64]:
    """True positives and union (tp + fp + fn), each float64 (..., C)."""
    classes = confusion.shape[-2]
    true_positive = np.diagonal(confusion[..., :classes], axis1=-2, axis2=-1).astype(np.float64)
    union = confusion.sum(axis=-1) + confusion[..., :classes].sum(axis=-2) - true_positive
    return true_positive, union.astype(np.float64)


def compute(confusion: Matrix) -> SegmentationScores:
    """All scores of one matrix, int64 (C, C + extra).

    >>> scores = compute(np.array([[3, 1, 0], [0, 0, 0], [0, 0, 0]]))
    >>> scores.iou, scores.miou
    ((0.75, 0.0, nan), 0.375)
    """
    iou = tuple(class_iou(confusion).tolist())
    dice = tuple(class_dice(confusion).tolist())
    pixels = int(confusion.sum())
    correct = int(np.diagonal(confusion).sum())
    return SegmentationScores(
        miou=nan_mean(iou),
        iou=iou,
        mean_dice=nan_mean(dice),
        dice=dice,
        pixel_accuracy=correct / pixels if pixels else float("nan"),
        pixels=pixels,
    )


class Confusion:
    """One matrix over a data set: ``update`` per image, ``compute`` at the end.

    Args:
        num_classes: classes that count.
        extra: channels of the model beyond these.
    """

    def __init__(self, num_classes: int, extra: int = 0) -> None:
        self.matrix = empty(num_classes, extra)
        self.images = 0

    def update(self, truth: Labels, prediction: Labels) -> None:
        """Count one image; see :func:`update`."""
        update(self.matrix, truth, prediction)
        self.images += 1

    def compute(self) -> SegmentationScores:
        """Scores over everything counted so far."""
        return compute(self.matrix)

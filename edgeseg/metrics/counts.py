"""Per-image counts of one subject: everything that data-set figures are sums of, and nothing else.

Two sets of counts over the same images are all that a drift needs, so counts kept in a file serve as a baseline that later runs
are paired with, image by image.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from edgeseg.errors import DataError
from edgeseg.metrics.boundary import boundary_counts, contour_counts, default_radius
from edgeseg.metrics.confusion import Labels, Matrix, empty, update
from edgeseg.metrics.objects import connected_regions, found_small_objects

__all__ = ["CountRecord", "CountSettings", "ImageCounter", "ImageCounts", "PackedArray"]

Int64: TypeAlias = npt.NDArray[np.int64]


class CountSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the counts depend on besides pixels; counts are comparable only where these are equal.

    Attributes:
        classes: names of the classes that count.
        boundary_radius: pixels; None: 0.5 % of each image's diagonal.
        small_area: pixels of the largest small object. 32 x 32 is COCO's limit (Lin et al. 2014, arXiv:1405.0312).
    """

    classes: tuple[str, ...]
    boundary_radius: int | None = None
    small_area: int = 32 * 32


class PackedArray(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Non-negative integers as zlib-compressed little-endian int64 (base64 in JSON): counts are mostly zeros."""

    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def pack(cls, values: Int64) -> PackedArray:
        return cls(values.shape, zlib.compress(np.ascontiguousarray(values, "<i8").tobytes(), 9))

    def unpack(self) -> Int64:
        """The array. Raises DataError where the bytes do not fit the shape."""
        try:
            return np.frombuffer(zlib.decompress(self.data), "<i8").astype(np.int64).reshape(self.shape)
        except (zlib.error, ValueError) as error:
            raise DataError(f"Counts in a file are damaged: {error}.", hint="Write the baseline again.") from error


class CountRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``ImageCounts`` in a file."""

    settings: CountSettings
    names: tuple[str, ...]
    confusion: PackedArray
    boundary: PackedArray
    contour: PackedArray
    small: PackedArray
    schema: int = 1


@dataclass(frozen=True)
class ImageCounts:
    """Counts of one subject, image by image.

    Attributes:
        settings: what was counted.
        names: N image names, unique.
        confusion: int64 (N, C, C + extra), truth by prediction.
        boundary: int64 (N, 2, C), intersection and union of the bands.
        contour: int64 (N, 4, C), see ``contour_counts``.
        small: int64 (N, 2, C), small objects and those found.
    """

    settings: CountSettings
    names: tuple[str, ...]
    confusion: Int64
    boundary: Int64
    contour: Int64
    small: Int64

    @property
    def num_classes(self) -> int:
        return len(self.settings.classes)

    @property
    def overlap(self) -> Int64:
        """True positives, false negatives and false positives, int64 (N, 3, C)."""
        classes = self.num_classes
        true_positive = np.diagonal(self.confusion[:, :, :classes], axis1=1, axis2=2)
        false_negative = self.confusion.sum(axis=2) - true_positive
        false_positive = self.confusion[:, :, :classes].sum(axis=1) - true_positive
        return np.stack((true_positive, false_negative, false_positive), axis=1)

    @property
    def total(self) -> Matrix:
        """The data set's one confusion matrix, int64 (C, C + extra)."""
        matrix: Matrix = self.confusion.sum(axis=0)
        return matrix

    def select(self, index: npt.NDArray[np.intp]) -> ImageCounts:
        """The images at these positions, in this order."""
        return ImageCounts(
            self.settings,
            tuple(self.names[i] for i in index),
            self.confusion[index],
            self.boundary[index],
            self.contour[index],
            self.small[index],
        )

    def record(self) -> CountRecord:
        """For a file."""
        return CountRecord(
            settings=self.settings,
            names=self.names,
            confusion=PackedArray.pack(self.confusion),
            boundary=PackedArray.pack(self.boundary),
            contour=PackedArray.pack(self.contour),
            small=PackedArray.pack(self.small),
        )

    @classmethod
    def of_record(cls, record: CountRecord) -> ImageCounts:
        """From a file. Raises DataError where it contradicts itself."""
        counts = cls(
            record.settings,
            record.names,
            record.confusion.unpack(),
            record.boundary.unpack(),
            record.contour.unpack(),
            record.small.unpack(),
        )
        images, classes = len(record.names), len(record.settings.classes)
        shapes = (counts.boundary.shape, counts.contour.shape, counts.small.shape, counts.confusion.shape[:2])
        if shapes != ((images, 2, classes), (images, 4, classes), (images, 2, classes), (images, classes)):
            raise DataError(
                f"Counts in a file do not fit its {images} images and {classes} classes.",
                hint="Write the baseline again.",
            )
        return counts


class ImageCounter:
    """Counts several subjects' predictions on the same images.

    Args:
        settings: what to count.
        extras: for each subject, its channels beyond the classes that count.
    """

    def __init__(self, settings: CountSettings, extras: tuple[int, ...]) -> None:
        self._settings = settings
        self._extras = extras
        self._names: list[str] = []
        self._seen: set[str] = set()
        self._confusion: list[list[npt.NDArray[np.int32]]] = [[] for _ in extras]
        self._boundary: list[list[Int64]] = [[] for _ in extras]
        self._contour: list[list[Int64]] = [[] for _ in extras]
        self._small: list[list[Int64]] = [[] for _ in extras]

    def update(self, name: str, truth: Labels, predictions: tuple[Labels, ...]) -> None:
        """Count one image.

        Args:
            name: unique among the images.
            truth: int16 (H, W), -1 where the pixel does not count.
            predictions: one int16 (H, W) a subject.

        Raises:
            DataError: the name was there before, or shapes or indices do not fit.
        """
        if name in self._seen:
            raise DataError(f"There are two images called '{name}'.", hint="Give every image a name of its own.")
        classes = len(self._settings.classes)
        radius = self._settings.boundary_radius or default_radius(*truth.shape)
        small = found_small_objects(connected_regions(truth), truth, predictions, classes, self._settings.small_area)
        for i, prediction in enumerate(predictions):
            matrix = empty(classes, self._extras[i])
            update(matrix, truth, prediction)
            self._confusion[i].append(matrix.astype(np.int32))
            # Files of one chain often decide every pixel alike: what is equal is counted once.
            same = next((j for j in range(i) if np.array_equal(predictions[j], prediction)), None)
            if same is not None:
                self._boundary[i].append(self._boundary[same][-1])
                self._contour[i].append(self._contour[same][-1])
            else:
                self._boundary[i].append(boundary_counts(truth, prediction, classes, radius))
                self._contour[i].append(contour_counts(truth, prediction, classes, radius))
            self._small[i].append(small[[0, 1 + i]])
        self._names.append(name)
        self._seen.add(name)

    def compute(self) -> tuple[ImageCounts, ...]:
        """Counts of each subject. Raises DataError where there was no image."""
        if not self._names:
            raise DataError("There was no image to evaluate.", hint="Give images and masks.")
        return tuple(
            ImageCounts(
                self._settings,
                tuple(self._names),
                np.stack(self._confusion[i]).astype(np.int64),
                np.stack(self._boundary[i]),
                np.stack(self._contour[i]),
                np.stack(self._small[i]),
            )
            for i in range(len(self._extras))
        )

"""Small objects: which connected regions of the truth are still found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edgeseg.metrics.confusion import Labels

__all__ = ["Regions", "connected_regions", "found_small_objects"]

Int64: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Regions:
    """Connected regions of equal label, side by side (4-connected), ignored pixels included as regions of label -1.

    Attributes:
        of_pixel: int64 (H, W), index of each pixel's region.
        label: int16 (R,).
        area: int64 (R,), pixels.
    """

    of_pixel: Int64
    label: npt.NDArray[np.int16]
    area: Int64


def connected_regions(labels: Labels) -> Regions:
    """Regions of a label map, int16 (H, W).

    Works on horizontal runs, not on pixels: runs of neighbouring rows that touch and agree are joined, each set taking its
    smallest index, by hooking and pointer jumping until nothing changes (Shiloach & Vishkin 1982).
    """
    height, width = labels.shape
    starts = np.ones(labels.shape, np.bool_)
    np.not_equal(labels[:, 1:], labels[:, :-1], out=starts[:, 1:])
    run_of_pixel = np.cumsum(starts.ravel()) - 1
    start = np.flatnonzero(starts)
    length = np.diff(start, append=labels.size)
    run_label = labels.ravel()[start]
    upper, lower = _touching(start, length, run_of_pixel, width, height)
    same = run_label[upper] == run_label[lower]
    root = _join(start.size, upper[same], lower[same])
    roots, region_of_run = np.unique(root, return_inverse=True)
    area = np.bincount(region_of_run, weights=length, minlength=roots.size).astype(np.int64)
    return Regions(region_of_run[run_of_pixel].reshape(labels.shape), run_label[roots], area)


def _touching(start: Int64, length: Int64, run_of_pixel: Int64, width: int, height: int) -> tuple[Int64, Int64]:
    """Pairs of runs (upper, lower) in neighbouring rows that share a column."""
    upper = np.flatnonzero(start < (height - 1) * width)
    first = run_of_pixel[start[upper] + width]
    last = run_of_pixel[start[upper] + length[upper] - 1 + width]
    count = last - first + 1
    offset = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    return np.repeat(upper, count), np.repeat(first, count) + offset


def _join(size: int, a: Int64, b: Int64) -> Int64:
    root = np.arange(size)
    while True:
        root_a, root_b = root[a], root[b]
        unequal = root_a != root_b
        if not unequal.any():
            return root
        a, b = a[unequal], b[unequal]
        high, low = np.maximum(root_a, root_b)[unequal], np.minimum(root_a, root_b)[unequal]
        np.minimum.at(root, high, low)
        while True:
            jumped = root[root]
            if np.array_equal(jumped, root):
                break
            root = jumped


def found_small_objects(
    regions: Regions, truth: Labels, predictions: tuple[Labels, ...], num_classes: int, max_area: int
) -> Int64:
    """Small objects of one image and how many each prediction finds, int64 (1 + len(predictions), num_classes).

    A small object is a region of the truth of at most ``max_area`` pixels; it is found where at least half of its pixels are
    predicted as its class. Row 0 counts the objects, row i those that prediction i - 1 finds.
    """
    small = (regions.area <= max_area) & (regions.label >= 0)
    label = regions.label[small]
    rows = [np.bincount(label, minlength=num_classes)]
    for prediction in predictions:
        hit = np.bincount(regions.of_pixel[prediction == truth], minlength=regions.area.size)
        found = 2 * hit[small] >= regions.area[small]
        rows.append(np.bincount(label[found], minlength=num_classes))
    return np.stack(rows).astype(np.int64)

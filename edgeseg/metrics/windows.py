"""Sliding windows over label maps: minimum, maximum and bitwise OR over squares, in logarithmic time of their size."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

__all__ = ["square_filter"]

Kind = TypeVar("Kind", bound=np.integer)


def square_filter(values: npt.NDArray[Kind], radius: int, combine: np.ufunc, neutral: int) -> npt.NDArray[Kind]:
    """``combine`` over the square of ``2 * radius + 1`` around each pixel; beyond the border stands ``neutral``.

    Args:
        values: (H, W).
        combine: associative, commutative and idempotent: ``np.minimum``, ``np.maximum``, ``np.bitwise_or``.

    >>> square_filter(np.array([[0, 0, 7, 0, 0]], np.int16), 1, np.maximum, -1).tolist()
    [[0, 7, 7, 7, 0]]
    """
    if radius == 0:
        return values.copy()
    for axis in (0, 1):
        values = _along(values, radius, combine, neutral, axis)
    return values


def _along(values: npt.NDArray[Kind], radius: int, combine: np.ufunc, neutral: int, axis: int) -> npt.NDArray[Kind]:
    length, width = values.shape[axis], 2 * radius + 1
    pads = [(0, 0), (0, 0)]
    pads[axis] = (radius, radius)
    window = np.pad(values, pads, constant_values=neutral)
    # A window of 2 n is two windows of n; the last step overlaps, which an idempotent operation does not mind.
    reached = 1
    while reached < width:
        step = min(reached, width - reached)
        window = combine(_part(window, axis, 0, -step), _part(window, axis, step, None))
        reached += step
    return _part(window, axis, 0, length)


def _part(values: npt.NDArray[Kind], axis: int, start: int, stop: int | None) -> npt.NDArray[Kind]:
    return values[start:stop] if axis == 0 else values[:, start:stop]

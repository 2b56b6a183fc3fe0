"""Pure layout arithmetic.

A tensor is stored in some order of its ONNX axes: ``perm[i]`` is the ONNX axis at stored position ``i``, so NHWC storage of
an NCHW tensor is ``(0, 2, 3, 1)``. Axes of size 1 carry no order: two orders that differ only in where they put them hold
the same bytes, and a RESHAPE leads from one to the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

__all__ = [
    "NHWC",
    "Perm",
    "drop_axes",
    "identity",
    "merged_runs",
    "normal_axis",
    "permuted",
    "regroup",
    "restore",
    "signature",
    "tag",
]

Perm: TypeAlias = tuple[int, ...]

NHWC: Perm = (0, 2, 3, 1)


def identity(rank: int) -> Perm:
    """The ONNX order itself."""
    return tuple(range(rank))


def permuted(shape: Sequence[int], perm: Perm) -> tuple[int, ...]:
    """The stored shape.

    >>> permuted((1, 3, 4, 5), NHWC)
    (1, 4, 5, 3)
    """
    return tuple(shape[axis] for axis in perm)


def signature(shape: Sequence[int], perm: Perm) -> Perm:
    """The order in which a tensor's bytes really lie: the axes larger than 1.

    >>> signature((1, 3, 1, 5), NHWC)
    (3, 1)
    """
    return tuple(axis for axis in perm if shape[axis] != 1)


def normal_axis(axis: int, rank: int) -> int:
    """An axis counted from the front."""
    return axis + rank if axis < 0 else axis


def drop_axes(perm: Perm, gone: Sequence[int]) -> Perm:
    """The order of the axes that are left, renumbered.

    >>> drop_axes(NHWC, (1,))
    (0, 1, 2)
    """
    kept = sorted(axis for axis in perm if axis not in gone)
    return tuple(kept.index(axis) for axis in perm if axis not in gone)


def tag(perm: Perm) -> str:
    """How a second stored order of a tensor is named.

    >>> tag(NHWC), tag((0, 2, 1))
    ('nhwc', 'p021')
    """
    if perm == NHWC:
        return "nhwc"
    if perm == (0, 1, 2, 3):
        return "nchw"
    return "p" + "".join(map(str, perm))


def merged_runs(before: Perm, after: Perm) -> list[Perm]:
    """The axes in their order ``before``, those that stay neighbours in ``after`` taken together.

    >>> merged_runs((0, 1, 2, 3), (3, 0, 1, 2))
    [(0, 1, 2), (3,)]
    """
    runs: list[list[int]] = []
    for axis in before:
        position = after.index(axis)
        if runs and position and after[position - 1] == runs[-1][-1]:
            runs[-1].append(axis)
        else:
            runs.append([axis])
    return [tuple(run) for run in runs]


def restore(shape: Sequence[int], order: Perm, preferred: Sequence[Perm]) -> Perm:
    """A full order whose axes larger than 1 come as in ``order``: the first of ``preferred`` that fits, else the axes of size
    1 wherever they keep the numbers ascending."""
    for candidate in preferred:
        if len(candidate) == len(shape) and signature(shape, candidate) == tuple(order):
            return candidate
    left = [axis for axis in range(len(shape)) if shape[axis] == 1]
    result: list[int] = []
    for axis in order:
        while left and left[0] < axis:
            result.append(left.pop(0))
        result.append(axis)
    return tuple(result + left)


def regroup(before: Sequence[int], after: Sequence[int]) -> list[tuple[Perm, Perm]]:
    """The smallest groups of axes that a reshape turns into one another; axes of size 1 belong to none.

    >>> regroup((1, 6, 4, 5), (1, 2, 3, 20))
    [((1,), (1, 2)), ((2, 3), (3,))]
    """
    left = [axis for axis in range(len(before)) if before[axis] != 1]
    right = [axis for axis in range(len(after)) if after[axis] != 1]
    groups: list[tuple[Perm, Perm]] = []
    i = j = 0
    while i < len(left) and j < len(right):
        first, second = [left[i]], [right[j]]
        i, j = i + 1, j + 1
        while (a := math.prod(before[axis] for axis in first)) != (b := math.prod(after[axis] for axis in second)):
            if a < b:
                first.append(left[i])
                i += 1
            else:
                second.append(right[j])
                j += 1
        groups.append((tuple(first), tuple(second)))
    return groups

"""Whether two sets of pictures are of one kind: energy distance, its permutation test, and the strangers among them.

The energy distance ``2 E|X - Y| - E|X - X'| - E|Y - Y'|`` is 0 only where both sets have the same distribution (Szekely and
Rizzo, Energy statistics: a class of statistics based on distances, J. Stat. Plan. Inference 143, 2013). The p-value of a
permutation test counts how often a random division of all pictures is as far apart (with 1 added to both counts: Phipson and
Smyth, Permutation p-values should never be zero, 2010).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["SetDifference", "compare_sets", "energy_distance", "nearest", "nearest_other"]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

_PERMUTATIONS = 999


@dataclass(frozen=True)
class SetDifference:
    """``distance``: energy distance, in the features' unit. ``p_value``: of the hypothesis that both sets are of one kind."""

    distance: float
    p_value: float


def energy_distance(first: Float32, second: Float32) -> float:
    """Energy distance of two samples of points (n, d) and (m, d); never negative.

    >>> a = np.zeros((4, 1), np.float32)
    >>> energy_distance(a, a + 3)
    6.0
    """
    between = float(_distances(first, second).mean())
    return 2 * between - float(_distances(first, first).mean()) - float(_distances(second, second).mean())


def compare_sets(first: Float32, second: Float32, *, seed: int, permutations: int = _PERMUTATIONS) -> SetDifference:
    """The energy distance of two samples (n, d), (m, d) and its permutation p-value; the same for the same seed."""
    points = np.vstack([first, second])
    distances = _distances(points, points)
    total = len(points)
    rng = np.random.default_rng(seed)
    member = np.zeros((total, permutations + 1))
    member[: len(first), 0] = 1
    for column in range(1, permutations + 1):
        member[rng.permutation(total)[: len(first)], column] = 1
    other = 1 - member
    reached = distances @ member
    within_first = (member * reached).sum(0) / len(first) ** 2
    between = (other * reached).sum(0) / (len(first) * len(second))
    within_second = (other * (distances @ other)).sum(0) / len(second) ** 2
    statistic = 2 * between - within_first - within_second
    as_far = int((statistic[1:] >= statistic[0] - 1e-12).sum())
    return SetDifference(max(0.0, float(statistic[0])), (1 + as_far) / (1 + permutations))


def nearest(points: Float32, others: Float32) -> Float64:
    """Distance of each point (n, d) to the nearest of ``others`` (m, d): float64 (n,)."""
    return np.asarray(_distances(points, others).min(axis=1), np.float64)


def nearest_other(points: Float32) -> Float64:
    """Distance of each point (n, d), n at least 2, to the nearest other point of its set: float64 (n,)."""
    distances = _distances(points, points)
    np.fill_diagonal(distances, np.inf)
    return np.asarray(distances.min(axis=1), np.float64)


def _distances(first: Float32, second: Float32) -> Float64:
    """Euclidean distances (n, m)."""
    rows: Sequence[Float64] = [np.sqrt(((second.astype(np.float64) - one) ** 2).sum(axis=1)) for one in first]
    return np.stack(rows)

"""Scores that may be undefined, and their form in JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Score", "defined", "nan_mean", "ratio"]

if TYPE_CHECKING:
    Score: TypeAlias = float
else:
    # JSON has no NaN. msgspec writes NaN as null; a field of this type takes the null back, and the struct's
    # ``__post_init__`` turns it into NaN with ``defined``.
    Score: TypeAlias = float | None


def defined(value: float | None) -> float:
    """The score itself, NaN for None.

    >>> defined(None)
    nan
    """
    return math.nan if value is None else value


def nan_mean(values: Sequence[float]) -> float:
    """Mean of the values that are not NaN; NaN where none is left.

    >>> nan_mean([1.0, float("nan"), 2.0])
    1.5
    """
    kept = [value for value in values if not math.isnan(value)]
    return math.fsum(kept) / len(kept) if kept else math.nan


def ratio(numerator: npt.NDArray[np.float64], denominator: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Elementwise quotient of two arrays of one shape; NaN where the denominator is 0.

    >>> ratio(np.array([1.0, 0.0]), np.array([2.0, 0.0]))
    array([0.5, nan])
    """
    quotient = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient

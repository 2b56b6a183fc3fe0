"""Scores that may be undefined, and their form in JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

__all__ = ["Score", "defined", "nan_mean"]

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

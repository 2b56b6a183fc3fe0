"""A figure and how sure it is, and what every interval from resamples needs."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

__all__ = ["Interval", "outer_quantiles", "student_quantile"]

Float64: TypeAlias = npt.NDArray[np.float64]

_BEYOND = 10  # so many resamples must lie beyond a quantile for it to be read off


class Interval(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``low <= estimate <= high``; the interval holds the true value with the given confidence."""

    estimate: float
    low: float
    high: float
    confidence: float = 0.95


def student_quantile(level: float, freedom: float) -> float:
    """Student's quantile at ``level`` (0..1, either side): the expansion in powers of 1 / freedom of Abramowitz & Stegun 1964,
    26.7.5, within 0.001 for 9 degrees of freedom and levels from 0.005 up.

    >>> round(student_quantile(0.975, 14), 2)
    2.14
    """
    z = NormalDist().inv_cdf(level)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + math.fsum(term / freedom**power for power, term in enumerate(terms, start=1))


def outer_quantiles(drawn: Float64, estimate: float, level: float) -> tuple[float, float]:
    """Quantiles of resampled values at ``level`` (0..0.5) and ``1 - level``, and never inside the estimate.

    Tests of many rules at once ask for levels at which hardly a resample lies. There the quantile is that of a level with
    10 resamples beyond it, moved away from the estimate by the ratio of the normal distribution's quantiles: a sample's
    outermost value alone is too near.

    Args:
        drawn: float64 (B,), without NaN, B > 0.
    """
    readable = min(max(level, _BEYOND / drawn.size), 0.25)
    low, high = (float(end) for end in np.quantile(drawn, (readable, 1.0 - readable)))
    normal = NormalDist()
    wider = normal.inv_cdf(level) / normal.inv_cdf(readable) if level < readable else 1.0
    return estimate - wider * max(estimate - low, 0.0), estimate + wider * max(high - estimate, 0.0)

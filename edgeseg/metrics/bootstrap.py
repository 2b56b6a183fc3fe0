"""Paired bootstrap over images.

Images are drawn with replacement, and every draw takes an image's counts of reference and candidate together: what makes an
image hard for both cancels in the difference. A data-set figure such as mIoU is a function of sums over images, so a resample
needs no pixels: multinomial weights times the matrix of per-image counts gives all resampled sums in one product.

The interval is BCa (bias-corrected and accelerated; Efron & Tibshirani 1993, An Introduction to the Bootstrap, section 14.3),
the acceleration from the jackknife (leaving out one image at a time).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edgeseg.interval import Interval

__all__ = ["METHOD", "MIN_IMAGES", "Bootstrap", "Figures", "paired_bootstrap"]

Float64: TypeAlias = npt.NDArray[np.float64]

Figures: TypeAlias = Callable[[Float64], Float64]
"""Sums (..., K) to figures (..., M); NaN where a figure is undefined."""

METHOD = "paired bootstrap over images, BCa interval (Efron & Tibshirani 1993, section 14.3)"

MIN_IMAGES = 10
"""With fewer independent images than this a bootstrap interval is too narrow to be honest: there is none."""

_CHUNK = 256  # resamples a matrix product; bounds memory for large data sets


@dataclass(frozen=True)
class Bootstrap:
    """Estimates with their resamples.

    Attributes:
        estimate: float64 (M,), the figures of the data set itself.
        resamples: float64 (B, M).
        jackknife: float64 (N, M), the figures with image i left out.
        support: int (M,), the number of images that carry information about each figure.
    """

    estimate: Float64
    resamples: Float64
    jackknife: Float64
    support: npt.NDArray[np.int64]

    def interval(self, figure: int, confidence: float = 0.95) -> Interval | None:
        """BCa interval of one figure; None where it is undefined or fewer than ``MIN_IMAGES`` images inform it."""
        estimate = float(self.estimate[figure])
        drawn = self.resamples[:, figure]
        drawn = drawn[~np.isnan(drawn)]
        if np.isnan(estimate) or self.support[figure] < MIN_IMAGES or drawn.size == 0:
            return None
        tail = (1.0 - confidence) / 2.0
        levels = _bca_levels(estimate, drawn, self.jackknife[:, figure], (tail, 1.0 - tail))
        low, high = np.quantile(drawn, levels)
        return Interval(
            estimate=estimate, low=min(float(low), estimate), high=max(float(high), estimate), confidence=confidence
        )

    def influence(self, figure: int) -> Float64:
        """How much each image adds to the figure: with it minus without it. float64 (N,)."""
        change: Float64 = self.estimate[figure] - self.jackknife[:, figure]
        return change


def _bca_levels(estimate: float, drawn: Float64, jackknife: Float64, levels: tuple[float, float]) -> tuple[float, float]:
    """Quantile levels that correct for bias and skew (equations 14.10, 14.14 and 14.15)."""
    normal = NormalDist()
    # Resamples that equal the estimate count half: many do where few pixels differ.
    below = (np.count_nonzero(drawn < estimate) + 0.5 * np.count_nonzero(drawn == estimate)) / drawn.size
    edge = 0.5 / drawn.size
    bias = normal.inv_cdf(min(max(below, edge), 1.0 - edge))
    left_out = jackknife[~np.isnan(jackknife)]
    deviation = left_out.mean() - left_out
    squares = float(np.sum(deviation**2))
    acceleration = float(np.sum(deviation**3)) / (6.0 * squares**1.5) if squares > 0.0 else 0.0

    def corrected(level: float) -> float:
        z = bias + normal.inv_cdf(level)
        return normal.cdf(bias + z / (1.0 - acceleration * z))

    return corrected(levels[0]), corrected(levels[1])


def paired_bootstrap(
    counts: npt.NDArray[np.integer] | Float64,
    figures: Figures,
    *,
    support: npt.NDArray[np.int64],
    resamples: int = 2000,
    seed: int = 0,
) -> Bootstrap:
    """Resample images.

    Args:
        counts: (N, K), one row an image: everything that is summed over images, of reference and candidate side by side.
        figures: from sums to figures.
        support: int (M,), how many images inform each figure.
        resamples: B.
    """
    table = np.asarray(counts, np.float64)
    images = table.shape[0]
    total = table.sum(axis=0)
    rng = np.random.default_rng(seed)
    share = np.full(images, 1.0 / max(images, 1))
    drawn = []
    for start in range(0, resamples, _CHUNK):
        weights = rng.multinomial(images, share, size=min(_CHUNK, resamples - start))
        drawn.append(figures(weights.astype(np.float64) @ table))
    return Bootstrap(
        estimate=figures(total), resamples=np.concatenate(drawn), jackknife=figures(total - table), support=support
    )

"""Paired bootstrap over images.

Images are drawn with replacement, and every draw takes an image's counts of reference and candidate together: what makes an
image hard for both cancels in the difference. A data-set figure such as mIoU is a function of sums over images, so a resample
needs no pixels: multinomial weights times the matrix of per-image counts gives all resampled sums in one product.

The interval is the expanded percentile interval (Hesterberg 2015, What Teachers Should Know About the Bootstrap, The American
Statistician 69, section 4.3): quantiles of the resampled change at ``Phi(-sqrt(n / (n - 1)) * t)`` and its mirror image, where
``t`` is Student's quantile with n - 1 degrees of freedom. It makes up for the plain percentile interval's being too narrow for
few images. In simulations with images of equal size and uneven classes it covered 94 to 95 % at n = 20 to 200, where the
bias-corrected and accelerated interval (BCa; Efron & Tibshirani 1993, section 14.3) covered 86 to 93 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edgeseg.interval import Interval

__all__ = ["METHOD", "MIN_IMAGES", "Bootstrap", "Figures", "expanded_level", "paired_bootstrap"]

Float64: TypeAlias = npt.NDArray[np.float64]

Figures: TypeAlias = Callable[[Float64], Float64]
"""Sums (..., K) to figures (..., M); NaN where a figure is undefined."""

METHOD = "paired bootstrap over images, expanded percentile interval (Hesterberg 2015)"

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
        """Interval of one figure; None where it is undefined or fewer than ``MIN_IMAGES`` images inform it."""
        estimate = float(self.estimate[figure])
        drawn = self.resamples[:, figure]
        drawn = drawn[~np.isnan(drawn)]
        images = int(self.support[figure])
        if np.isnan(estimate) or images < MIN_IMAGES or drawn.size == 0:
            return None
        level = expanded_level((1.0 - confidence) / 2.0, images)
        low, high = np.quantile(drawn, (level, 1.0 - level))
        return Interval(
            estimate=estimate, low=min(float(low), estimate), high=max(float(high), estimate), confidence=confidence
        )

    def influence(self, figure: int) -> Float64:
        """How much each image adds to the figure: with it minus without it. float64 (N,)."""
        change: Float64 = self.estimate[figure] - self.jackknife[:, figure]
        return change


def expanded_level(level: float, images: int) -> float:
    """The lower quantile level to read off the resamples instead of ``level`` (0..0.5) for ``images`` images.

    >>> round(expanded_level(0.025, 20), 4), round(expanded_level(0.025, 1000), 4)
    (0.0159, 0.0248)
    """
    normal = NormalDist()
    return normal.cdf(math.sqrt(images / (images - 1)) * _student(normal.inv_cdf(level), images - 1))


def _student(z: float, freedom: int) -> float:
    """Student's quantile at the level where the normal quantile is ``z``: the expansion in powers of 1 / freedom of Abramowitz &
    Stegun 1964, 26.7.5, within 0.001 for 9 degrees of freedom and levels from 0.005 up."""
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + math.fsum(term / freedom**power for power, term in enumerate(terms, start=1))


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

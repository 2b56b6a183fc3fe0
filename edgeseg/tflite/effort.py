"""How much a search measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["EFFORTS", "Effort"]


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        harm_images: images per single source of noise.
        covered: share of all harm whose tensors get an estimator of their own.
        steps: of the bisection over the price.
        rounds: of timing the finalists.
    """

    estimators: tuple[str, ...]
    harm_images: int
    covered: float
    steps: int
    rounds: int


EFFORTS: Mapping[str, Effort] = {
    "quick": Effort(("mse", "percentile-99.99", "minmax"), 1, 0.6, 6, 7),
    "normal": Effort(("mse", "percentile-99.99", "percentile-99.9", "mean-minmax", "minmax"), 2, 0.95, 9, 15),
    "max": Effort(
        (
            "mse",
            "percentile-99.999",
            "percentile-99.99",
            "percentile-99.9",
            "mean-minmax",
            "moving-average",
            "entropy",
            "minmax",
        ),
        4,
        0.99,
        12,
        31,
    ),
}

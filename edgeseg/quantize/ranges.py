"""From statistics to a quantized tensor's range, scale and zero point. Pure functions; no runtime.

An estimator turns an ``Observer`` into a ``Range``. None is best everywhere: extremes keep useless tails, clipping loses
useful ones. ``candidates`` gives them all, ``expected_error`` compares them on the tensor itself, and
``edgeseg.quantize.estimate`` compares them at the network's output.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeseg.errors import UsageError
from edgeseg.quantize.observe import Float64, Histogram, Observer
from edgeseg.quantize.plan import TensorQuant

__all__ = [
    "ESTIMATORS",
    "Range",
    "affine",
    "candidates",
    "choose",
    "estimate",
    "expected_error",
    "kl_divergence",
    "merge_levels",
]

_TINY = float(np.finfo(np.float32).tiny)
_DTYPES = {"int8": (8, -128), "uint8": (8, 0), "int16": (16, -32768)}  # bits and the smallest integer
_SEARCH = 24  # points of a one-dimensional search of one end
_THRESHOLDS = 96  # of the entropy search
_SMOOTH = 1e-4


@dataclass(frozen=True)
class Range:
    """Real numbers that a quantized tensor must tell apart; values outside are clipped."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise UsageError(
                f"A range needs finite ends in order, not {self.low} and {self.high}.", hint="Swap or correct the ends."
            )

    def with_zero(self) -> Range:
        """The smallest range that holds this one and 0, which affine quantization must represent exactly."""
        return Range(min(self.low, 0.0), max(self.high, 0.0))


@dataclass(frozen=True)
class _Grid:
    """The real values that ``levels`` integers stand for: ``low + k * step``, 0 among them."""

    low: float
    high: float
    step: float


def affine(range: Range, *, symmetric: bool = False, dtype: str = "int8", estimator: str = "") -> TensorQuant:
    """Scale and zero point of a range (Jacob et al. 2018, arXiv:1712.05877, section 3; zero exactly representable).

    The scale is a float32 value. Symmetric: zero point 0 (the middle for uint8) and the larger end at the largest integer.
    A tensor that is always 0 gets scale 1; a constant is represented exactly.

    >>> affine(Range(-1.0, 254 / 1.0)).zero_point
    (-127,)
    >>> affine(Range(-2.0, 1.0), symmetric=True).scale == (float(np.float32(2 / 127)),)
    True
    """
    bits, lowest = _dtype(dtype)
    scale, zero = _scale(range, bits, symmetric)
    return TensorQuant(
        scale=(scale,),
        zero_point=(lowest + zero,),
        dtype=dtype,
        low=range.low,
        high=range.high,
        estimator=estimator,
    )


def expected_error(observer: Observer, range: Range, *, bits: int = 8, symmetric: bool = False) -> float:
    """Mean squared error of quantizing the observed values with a range: rounding inside, clipping outside.

    Exact for values spread evenly within each histogram bin (the integral of the squared distance to the grid, in closed
    form), so it stays right where bins are wider than a quantization step. Exact zeros cost nothing.
    """
    observer.require_images()
    return float(_errors(observer.histogram, [_grid(range, bits, symmetric)])[0])


def estimate(observer: Observer, estimator: str, *, bits: int = 8, symmetric: bool = False) -> Range:
    """The range that one estimator (a key of ``ESTIMATORS``) gives; within the observed extremes.

    Raises:
        UsageError: no such estimator.
        DataError: nothing was observed.
    """
    if estimator not in ESTIMATORS:
        raise UsageError(f"There is no range estimator '{estimator}'.", hint=f"Choose one of: {', '.join(ESTIMATORS)}.")
    observer.require_images()
    found = ESTIMATORS[estimator](observer, bits, symmetric)
    low = min(max(found.low, observer.low), observer.high)
    return Range(low, max(low, min(found.high, observer.high)))


def candidates(observer: Observer, *, bits: int = 8, symmetric: bool = False) -> dict[str, Range]:
    """Every estimator's range, by the estimator's name."""
    return {name: estimate(observer, name, bits=bits, symmetric=symmetric) for name in ESTIMATORS}


def choose(observer: Observer, *, estimator: str = "mse", symmetric: bool = False, dtype: str = "int8") -> TensorQuant:
    """Quantize a tensor with one estimator's range."""
    bits = _dtype(dtype)[0]
    found = estimate(observer, estimator, bits=bits, symmetric=symmetric)
    return affine(found, symmetric=symmetric, dtype=dtype, estimator=estimator)


def _dtype(name: str) -> tuple[int, int]:
    if name not in _DTYPES:
        raise UsageError(f"Activations cannot be quantized to '{name}'.", hint=f"Choose one of: {', '.join(_DTYPES)}.")
    return _DTYPES[name]


def _scale(range: Range, bits: int, symmetric: bool) -> tuple[float, int]:
    """Scale, and the integer (counted from the lowest) that stands for 0."""
    whole = range.with_zero()
    top = 2**bits - 1
    if symmetric:
        amplitude = max(-whole.low, whole.high)
        return _float32(amplitude / (top // 2)) if amplitude else 1.0, top // 2 + 1
    extent = whole.high - whole.low
    if extent == 0:
        return 1.0, 0 if bits == 8 else top // 2 + 1
    scale = _float32(extent / top)
    return scale, min(max(round(-whole.low / scale), 0), top)


def _float32(scale: float) -> float:
    return max(float(np.float32(scale)), _TINY)


def _grid(range: Range, bits: int, symmetric: bool) -> _Grid:
    step, zero = _scale(range, bits, symmetric)
    return _Grid(low=-zero * step, high=(2**bits - 1 - zero) * step, step=step)


def _errors(seen: Histogram, grids: list[_Grid]) -> Float64:
    """Mean squared error of each grid, float64 (len(grids),)."""
    if seen.total == 0 or seen.counts.size == 0:
        return np.zeros(len(grids))
    low, high, step = (
        np.array([getattr(grid, name) for grid in grids], np.float64)[:, None] for name in ("low", "high", "step")
    )
    edges = seen.edges[None, :]
    # Antiderivative of the squared distance to the nearest grid point: a whole cell holds step**3 / 12.
    inside = np.clip(edges, low, high)
    steps = np.rint(inside / step)
    rest = inside - steps * step
    over = edges - inside
    area = steps * (step * step * step / 12) + (rest * rest * rest + over * over * over) / 3
    per_bin = np.diff(area, axis=1) / seen.width
    return np.asarray(np.maximum(per_bin @ seen.counts / seen.total, 0.0), np.float64)


def _minmax(observer: Observer, _bits: int, _symmetric: bool) -> Range:
    return Range(observer.low, observer.high)


def _moving_average(observer: Observer, _bits: int, _symmetric: bool) -> Range:
    return Range(*observer.moving_extremes)


def _mean_minmax(observer: Observer, _bits: int, _symmetric: bool) -> Range:
    return Range(*observer.mean_extremes)


def _percentile(percent: float) -> Callable[[Observer, int, bool], Range]:
    """The range that leaves ``100 - percent`` per cent of the values out on either side."""

    def find(observer: Observer, _bits: int, _symmetric: bool) -> Range:
        low, high = _quantiles(observer.histogram, (1 - percent / 100, percent / 100))
        return Range(low, high)

    return find


def _quantiles(seen: Histogram, shares: tuple[float, ...]) -> tuple[float, ...]:
    """Values below which given shares of all values lie, linear within a bin."""
    if seen.counts.size == 0:
        return tuple(0.0 for _ in shares)
    edges, below = seen.edges, np.concatenate([[0], np.cumsum(seen.counts)]).astype(np.float64)
    zero = -seen.first  # the edge at 0: the exact zeros are a jump there
    edges = np.insert(edges, zero, 0.0)
    below = np.concatenate([below[: zero + 1], below[zero:] + seen.zeros])
    targets = np.round([share * seen.total for share in shares], 6)
    bins = np.maximum(np.searchsorted(below, targets, side="left") - 1, 0)
    part = (targets - below[bins]) / np.maximum(below[bins + 1] - below[bins], 1)
    return tuple((edges[bins] + part * (edges[bins + 1] - edges[bins])).tolist())


def _mse(observer: Observer, bits: int, symmetric: bool) -> Range:
    """The range of least squared error (Banner et al. 2019, arXiv:1810.05723, minimise it under a fitted distribution;
    here under the histogram itself). Ends are searched in turn, each by a scan and a finer scan around the best."""
    low, high = min(observer.low, 0.0), max(observer.high, 0.0)
    seen = observer.histogram

    def best(options: list[Range]) -> Range:
        return options[int(np.argmin(_errors(seen, [_grid(option, bits, symmetric) for option in options])))]

    def scan(build: Callable[[float], Range]) -> Range:
        coarse = np.linspace(1 / _SEARCH, 1, _SEARCH)
        found = int(np.argmin(_errors(seen, [_grid(build(float(f)), bits, symmetric) for f in coarse])))
        near = np.clip(coarse[found] + np.linspace(-1, 1, _SEARCH + 1) / _SEARCH, 1 / _SEARCH**2, 1)
        return best([build(float(f)) for f in (*near, coarse[found])])

    if symmetric:
        amplitude = max(-low, high)
        return scan(lambda f: Range(max(low, -f * amplitude), min(high, f * amplitude)))
    current = Range(low, high)
    if low == 0 or high == 0:
        return scan(lambda f: Range(f * low, f * high))
    current = scan(lambda f: Range(f * low, f * high))
    for _ in range(2):
        fixed = current
        current = scan(lambda f: Range(fixed.low, f * high))  # noqa: B023 - used at once
        fixed = current
        current = scan(lambda f: Range(f * low, fixed.high))  # noqa: B023
    return current


def _entropy(observer: Observer, bits: int, _symmetric: bool) -> Range:
    """The clipping of least Kullback-Leibler divergence between the values and their quantized form (S. Migacz, "8-bit
    inference with TensorRT", GTC 2017, pages 24-38). Clips at the same distance on both sides of 0."""
    seen = observer.histogram
    if seen.counts.size == 0:
        return Range(observer.low, observer.high)
    levels = 2**bits
    reach = max(-seen.first, seen.first + seen.counts.size)
    smallest = min(levels // 2, reach)
    limits = sorted({round(limit) for limit in np.linspace(smallest, reach, _THRESHOLDS)})
    divergences = [_divergence(seen, limit, levels) for limit in limits]
    limit = limits[int(np.argmin(divergences))] * seen.width
    return Range(max(min(observer.low, 0.0), -limit), min(max(observer.high, 0.0), limit))


def _divergence(seen: Histogram, limit: int, levels: int) -> float:
    """KL divergence, in nats, of clipping at ``limit`` bins from 0 and merging what is left into ``levels`` groups."""
    start = max(-limit - seen.first, 0)
    stop = min(limit - seen.first, seen.counts.size)
    kept = seen.counts[start:stop].astype(np.float64)
    clipped = kept.copy()
    clipped[0] += seen.counts[:start].sum()
    clipped[-1] += seen.counts[stop:].sum()
    merged = merge_levels(kept, levels)
    # An end bin may hold clipped values only; a little of the mass goes everywhere p has some, so that the ratio exists.
    filled = clipped > 0
    return kl_divergence(clipped, (1 - _SMOOTH) * merged / max(merged.sum(), 1.0) + _SMOOTH * filled / filled.sum())


def merge_levels(counts: npt.NDArray[np.float64], levels: int) -> npt.NDArray[np.float64]:
    """What ``levels`` equal groups of bins can tell of a histogram: each group's mass spread evenly over its filled bins."""
    if counts.size <= levels:
        return counts
    group = np.arange(counts.size) * levels // counts.size
    filled = counts > 0
    mass = np.bincount(group, weights=counts, minlength=levels)
    bins = np.bincount(group, weights=filled.astype(np.float64), minlength=levels)
    return np.asarray(np.where(filled, (mass / np.maximum(bins, 1))[group], 0.0), np.float64)


def kl_divergence(p: npt.NDArray[np.float64], q: npt.NDArray[np.float64]) -> float:
    """``sum(p * log(p / q))`` of two histograms after normalising, in nats; infinite where q lacks mass that p has."""
    if p.sum() == 0 or q.sum() == 0 or np.any((q == 0) & (p > 0)):
        return math.inf
    p, q = p / p.sum(), q / q.sum()
    some = p > 0
    return float(np.sum(p[some] * np.log(p[some] / q[some])))


ESTIMATORS: dict[str, Callable[[Observer, int, bool], Range]] = {
    "minmax": _minmax,
    "percentile-99.9": _percentile(99.9),
    "percentile-99.99": _percentile(99.99),
    "percentile-99.999": _percentile(99.999),
    "moving-average": _moving_average,
    "mean-minmax": _mean_minmax,
    "mse": _mse,
    "entropy": _entropy,
}
"""Range estimators by name; each takes an observer, the number of bits and whether the grid is symmetric."""

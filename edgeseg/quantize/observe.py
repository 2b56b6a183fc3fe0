"""Streaming statistics of one tensor: what a range estimator needs to know, in memory that does not grow.

Every element counts for the extremes. The histogram takes a strided sample of each image (``SAMPLE`` elements at most),
because binning every element of a few hundred tensors costs more than running the network that makes them. With N sampled
elements in all, the share that a percentile leaves out is off by less than sqrt(ln(200) / 2N) with 99% confidence if they
were independent (Dvoretzky, Kiefer, Wolfowitz; Massart 1990): 0.0013 for 100 images; of the share p in a tail, by a
factor 1 +- 2.6 / sqrt(p N): a fifth for p = 1e-4.

The histogram's bins are multiples of a power of two, so that growing the range merges neighbouring bins exactly: the
counts are those that binning all samples at the final width would have given, in whatever order they came, and two
histograms merge without loss. Zero is always a bin's edge; exact zeros (half of what a ReLU gives) are counted apart,
since affine quantization represents them exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgeseg.errors import DataError, ModelError

__all__ = ["BINS", "MOMENTUM", "SAMPLE", "Histogram", "Observer", "combine", "histogram", "sample"]

BINS = 2048
SAMPLE = 16384
MOMENTUM = 0.1
_BLOCK = 65536  # elements that stay in the processor's cache between the search for the least and for the largest
_TOGETHER = 4  # images that are binned in one go: most of the time of binning one goes into calls
_MIN_EXPONENT = -120  # of a bin's width; keeps index arithmetic clear of float32's subnormals

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Histogram:
    """Counts of non-zero values in bins ``[(first + i) * width, (first + i + 1) * width)`` with ``width = 2**exponent``.

    Attributes:
        exponent: of the bins' width; meaningless while there are no bins.
        first: the first bin's index on the grid of multiples of the width.
        counts: int64 (n,), ``n <= BINS``.
        zeros: how many values were exactly 0; they are in no bin.
    """

    exponent: int
    first: int
    counts: Int64
    zeros: int

    @property
    def width(self) -> float:
        return math.ldexp(1.0, self.exponent)

    @property
    def total(self) -> int:
        """Values seen, zeros included."""
        return int(self.counts.sum()) + self.zeros

    @property
    def edges(self) -> Float64:
        """float64 (n + 1,)."""
        return (self.first + np.arange(self.counts.size + 1, dtype=np.float64)) * self.width


_EMPTY = Histogram(0, 0, np.zeros(0, np.int64), 0)


def histogram(values: npt.NDArray[np.floating], *, bins: int = BINS) -> Histogram:
    """The histogram of finite ``values`` (any shape) in at most ``bins`` bins as narrow as their range (and 0) allows.

    >>> h = histogram(np.array([0.0, 0.25, 0.5, 1.0, -1.0]), bins=4)
    >>> h.zeros, h.edges.tolist(), h.counts.tolist()
    (1, [-1.0, 0.0, 1.0, 2.0], [1, 2, 1])
    """
    flat = np.asarray(values, np.float32).ravel()
    if flat.size == 0:
        return _EMPTY
    zeros = flat.size - int(np.count_nonzero(flat))
    low, high = min(float(flat.min()), 0.0), max(float(flat.max()), 0.0)
    if low == high:
        return Histogram(0, 0, np.zeros(0, np.int64), zeros)
    exponent = max(math.frexp((high - low) / bins)[1] - 1, _MIN_EXPONENT)
    while _span(low, high, exponent)[1] > bins:
        exponent += 1
    first, count = _span(low, high, exponent)
    # Scaling by a power of two is exact, so a value on an edge falls into the bin above it without rounding doubts.
    index = np.floor(flat * np.float32(math.ldexp(1.0, -exponent))).astype(np.int64)
    index -= first
    counts = np.bincount(index, minlength=count)
    counts[-first] -= zeros
    return Histogram(exponent, first, counts, zeros)


def combine(a: Histogram, b: Histogram, *, bins: int = BINS) -> Histogram:
    """The histogram of both sets of values; exact, commutative and associative."""
    if not a.counts.size or not b.counts.size:
        kept = a if a.counts.size else b
        return Histogram(kept.exponent, kept.first, kept.counts, a.zeros + b.zeros)
    exponent = max(a.exponent, b.exponent)
    while True:
        shifts = (exponent - a.exponent, exponent - b.exponent)
        first = min(a.first >> shifts[0], b.first >> shifts[1])
        last = max((h.first + h.counts.size - 1) >> s for h, s in zip((a, b), shifts, strict=True))
        if last - first < bins:
            break
        exponent += 1
    counts = np.zeros(last - first + 1, np.int64)
    for one, shift in zip((a, b), shifts, strict=True):
        if shift == 0:
            counts[one.first - first : one.first - first + one.counts.size] += one.counts
        else:
            places = ((one.first + np.arange(one.counts.size)) >> shift) - first
            np.add.at(counts, places, one.counts)
    return Histogram(exponent, first, counts, a.zeros + b.zeros)


def _span(low: float, high: float, exponent: int) -> tuple[int, int]:
    """First grid index and number of bins that cover ``low..high`` and 0, the bin that starts at 0 included."""
    first = math.floor(math.ldexp(low, -exponent))
    return first, math.floor(math.ldexp(high, -exponent)) - first + 1


@dataclass
class Observer:
    """Everything the estimators need about one tensor, gathered image by image.

    Attributes:
        name: the tensor's, for messages.
        axis: keep the extremes of each channel along this axis too (``channel_low``, ``channel_high``).
        low, high: extremes of all elements of all images; ``inf``, ``-inf`` before the first.
        images: how many updates there were.
    """

    name: str = ""
    axis: int | None = None
    bins: int = BINS
    low: float = math.inf
    high: float = -math.inf
    images: int = 0
    channel_low: npt.NDArray[np.float32] | None = field(default=None, repr=False)
    channel_high: npt.NDArray[np.float32] | None = field(default=None, repr=False)
    _binned: Histogram = field(default=_EMPTY, repr=False)
    _waiting: list[npt.NDArray[np.floating]] = field(default_factory=list, repr=False)
    _sums: tuple[float, float] = (0.0, 0.0)
    _first: tuple[float, float] = (0.0, 0.0)
    _moving: tuple[float, float] = (0.0, 0.0)

    def update(self, x: npt.NDArray[np.floating]) -> None:
        """Take in the tensor as it is for one more image (any shape).

        Raises:
            ModelError: the tensor is not finite.
        """
        if x.size == 0:
            raise ModelError(
                f"Tensor '{self.name}' is empty.", hint="A tensor without elements cannot be quantized; check the graph."
            )
        if self.axis is None:
            low, high = _extremes(x)
        else:
            low, high = self._update_channels(x, self.axis)
        self.summarised(low, high, sample(x, turn=self.images))

    def summarised(self, low: float, high: float, some: npt.NDArray[np.floating]) -> None:
        """Take in one more image of which only this is known.

        Args:
            low, high: extremes of all elements.
            some: a sample of them, any shape, that does not prefer any.

        Raises:
            ModelError: an extreme is not finite.
        """
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ModelError(
                f"Tensor '{self.name}' holds NaN or infinity on calibration image {self.images + 1}.",
                hint="Check the model's weights and the preprocessing in edgeseg.toml: the float model itself overflows.",
            )
        self._waiting.append(np.array(some, np.float32).ravel())
        if len(self._waiting) == _TOGETHER:
            self._bin()
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._sums = (self._sums[0] + low, self._sums[1] + high)
        if self.images == 0:
            self._first = self._moving = (low, high)
        else:
            self._moving = (_step(self._moving[0], low), _step(self._moving[1], high))
        self.images += 1

    def merge(self, later: Observer) -> None:
        """Take in another observer of the same tensor, which saw the images that come after this one's."""
        if later.images == 0:
            return
        if self.images == 0:
            self._first = self._moving = later._first
        # A moving average that starts at its own first value is taken off that value and put onto ours.
        fade = (1 - MOMENTUM) ** later.images
        self._moving = (
            later._moving[0] + fade * (self._moving[0] - later._first[0]),
            later._moving[1] + fade * (self._moving[1] - later._first[1]),
        )
        self._sums = (self._sums[0] + later._sums[0], self._sums[1] + later._sums[1])
        self.low, self.high = min(self.low, later.low), max(self.high, later.high)
        self._binned = combine(self.histogram, later.histogram, bins=self.bins)
        self.channel_low = _both(np.minimum, self.channel_low, later.channel_low)
        self.channel_high = _both(np.maximum, self.channel_high, later.channel_high)
        self.images += later.images

    @property
    def histogram(self) -> Histogram:
        """Of the sampled elements of all images."""
        self._bin()
        return self._binned

    def _bin(self) -> None:
        if self._waiting:
            self._binned = combine(self._binned, histogram(np.concatenate(self._waiting), bins=self.bins), bins=self.bins)
            self._waiting.clear()

    @property
    def mean_extremes(self) -> tuple[float, float]:
        """Mean over images of each image's minimum and maximum."""
        self.require_images()
        return self._sums[0] / self.images, self._sums[1] / self.images

    @property
    def moving_extremes(self) -> tuple[float, float]:
        """Exponential moving average of each image's minimum and maximum, started at the first image's."""
        self.require_images()
        return self._moving

    def require_images(self) -> None:
        """Raise DataError where nothing was observed yet."""
        if self.images == 0:
            raise DataError(
                f"Tensor '{self.name}' was never observed, so it has no range.",
                hint="Give the calibration at least one image.",
            )

    def _update_channels(self, x: npt.NDArray[np.floating], axis: int) -> tuple[float, float]:
        others = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
        lows, highs = np.asarray(x.min(axis=others), np.float32), np.asarray(x.max(axis=others), np.float32)
        self.channel_low = _both(np.minimum, self.channel_low, lows)
        self.channel_high = _both(np.maximum, self.channel_high, highs)
        return float(lows.min()), float(highs.max())


def sample(x: npt.NDArray[np.floating], *, turn: int = 0, limit: int = SAMPLE) -> npt.NDArray[np.floating]:
    """At most ``limit`` elements of ``x``, evenly strided; another ``turn`` starts elsewhere. Deterministic.

    The stride shares no factor with the number of elements, hence with no dimension: it visits all rows, columns and
    channels alike.
    """
    flat = x.reshape(-1)
    if flat.size <= limit:
        return flat
    stride = -(-flat.size // limit)
    while math.gcd(stride, flat.size) > 1:
        stride += 1
    return flat[turn % stride :: stride]


def _extremes(x: npt.NDArray[np.floating]) -> tuple[float, float]:
    """Least and largest; NaN where there is one. One pass over memory instead of two."""
    flat = x.reshape(-1)
    blocks = [flat[begin : begin + _BLOCK] for begin in range(0, flat.size, _BLOCK)]
    pairs = np.asarray([(block.min(), block.max()) for block in blocks])
    return float(pairs[:, 0].min()), float(pairs[:, 1].max())


def _step(average: float, value: float) -> float:
    return average + MOMENTUM * (value - average)


def _both(
    pick: np.ufunc, a: npt.NDArray[np.float32] | None, b: npt.NDArray[np.float32] | None
) -> npt.NDArray[np.float32] | None:
    if a is None or b is None:
        return b if a is None else a
    return np.asarray(pick(a, b), np.float32)

"""Streaming statistics against numpy on all the data at once."""

from __future__ import annotations

import numpy as np
import pytest

from edgeseg.errors import DataError, ModelError
from edgeseg.quantize.observe import BINS, MOMENTUM, Histogram, Observer, combine, histogram, sample


def images(count: int, seed: int = 0, size: int = 3000) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    made = [rng.normal(0.3, 10.0 ** rng.uniform(-3, 2), (1, 4, size // 4)).astype(np.float32) for _ in range(count)]
    return [np.maximum(x, 0) if i % 3 == 0 else x for i, x in enumerate(made)]


def observed(data: list[np.ndarray], **kwargs: int) -> Observer:
    observer = Observer("t", **kwargs)
    for x in data:
        observer.update(x)
    return observer


def assert_same(a: Histogram, b: Histogram) -> None:
    assert (a.exponent, a.first, a.zeros) == (b.exponent, b.first, b.zeros)
    np.testing.assert_array_equal(a.counts, b.counts)


def test_histogram_counts_are_numpys_whatever_the_order() -> None:
    data = images(12)
    one = observed(data).histogram
    everything = np.concatenate([x.ravel() for x in data]).astype(np.float64)
    expected, _ = np.histogram(everything[everything != 0], bins=one.edges)
    np.testing.assert_array_equal(one.counts, expected)
    assert one.zeros == int((everything == 0).sum())
    assert_same(one, observed(data[::-1]).histogram)
    assert one.counts.size <= BINS
    assert one.counts.size > BINS // 2 - 2, "bins are as narrow as the range allows"


def test_histogram_grows_by_many_octaves_without_losing_a_count() -> None:
    parts = [histogram(np.float32([1e-6, -3e-7, 0, 2e-6])), histogram(np.float32([0, 5.0])), histogram(np.float32([-1e6]))]
    whole = combine(combine(parts[0], parts[1]), parts[2])
    assert_same(whole, combine(parts[2], combine(parts[1], parts[0])))
    assert whole.total == 7
    assert whole.zeros == 2


def test_memory_does_not_grow() -> None:
    observer = observed(images(3))
    before = observer.histogram.counts.nbytes
    for x in images(30, seed=1):
        observer.update(x)
    assert observer.histogram.counts.nbytes <= max(before, BINS * 8)


def test_extremes_means_and_moving_average() -> None:
    data = images(7)
    lows, highs = [float(x.min()) for x in data], [float(x.max()) for x in data]
    observer = observed(data)
    assert (observer.low, observer.high) == (min(lows), max(highs))
    assert observer.mean_extremes == pytest.approx((np.mean(lows), np.mean(highs)))
    moving = highs[0]
    for value in highs[1:]:
        moving = (1 - MOMENTUM) * moving + MOMENTUM * value
    assert observer.moving_extremes[1] == pytest.approx(moving)


def test_merging_is_observing_one_after_the_other() -> None:
    data = images(9, size=400)
    whole, head, tail = observed(data, axis=1), observed(data[:4], axis=1), observed(data[4:], axis=1)
    head.merge(tail)
    assert_same(head.histogram, whole.histogram)
    assert head.moving_extremes == pytest.approx(whole.moving_extremes)
    assert head.mean_extremes == pytest.approx(whole.mean_extremes)
    assert (head.low, head.high, head.images) == (whole.low, whole.high, whole.images)
    np.testing.assert_array_equal(head.channel_low, whole.channel_low)
    empty = Observer("t")
    empty.merge(whole)
    assert empty.moving_extremes == whole.moving_extremes


def test_extremes_of_channels() -> None:
    data = images(5)
    observer = observed(data, axis=1)
    stack = np.concatenate(data, axis=2)
    np.testing.assert_array_equal(observer.channel_low, stack.min(axis=(0, 2)))
    np.testing.assert_array_equal(observer.channel_high, stack.max(axis=(0, 2)))


def test_a_sample_visits_all_columns_and_channels_alike() -> None:
    x = np.arange(8 * 64 * 128, dtype=np.float32).reshape(8, 64, 128)
    taken = sample(x, limit=2048).astype(int)
    assert taken.size <= 2048
    assert np.bincount(taken // (64 * 128), minlength=8).min() > 200
    assert np.bincount(taken % 128, minlength=128).min() > 8
    assert not np.array_equal(sample(x, turn=1, limit=2048), taken)


def test_extremes_count_even_where_the_sample_misses_them() -> None:
    x = np.zeros(1_000_003, np.float32)
    x[777_777] = 9.0
    observer = observed([x])
    assert observer.high == 9.0


def test_constant_tensors() -> None:
    zero = observed([np.zeros((2, 3), np.float32)])
    assert zero.histogram.total == zero.histogram.zeros == 6
    three = observed([np.full((2, 3), 3.0, np.float32)])
    assert three.histogram.counts.sum() == 6
    tiny = observed([np.full(3, 1e-38, np.float32)])
    assert tiny.histogram.counts.sum() == 3


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_tensor_that_is_not_finite_is_named(bad: float) -> None:
    with pytest.raises(ModelError, match=r"'conv7'.*image 1"):
        Observer("conv7").update(np.float32([1.0, bad]))


def test_no_images_no_range() -> None:
    with pytest.raises(DataError, match="'conv7'"):
        _ = Observer("conv7").mean_extremes


@pytest.mark.parametrize("size", [65535, 65536, 65537, 200_001])
def test_extremes_count_every_element_of_large_tensors(size: int) -> None:
    values = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    values[size // 2], values[-1] = 50, -60
    observer = Observer("x")
    observer.update(values.reshape(1, -1))
    assert (observer.low, observer.high) == (-60, 50)
    values[-1] = np.nan
    with pytest.raises(ModelError, match="NaN or infinity"):
        observer.update(values)

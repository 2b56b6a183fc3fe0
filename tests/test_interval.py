from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from edgeseg.interval import outer_quantiles, student_quantile


@pytest.mark.parametrize("level", [0.2, 0.025, 0.005])
def test_quantiles_with_resamples_beyond_them_are_read_off(level: float) -> None:
    drawn = np.random.default_rng(0).gamma(2.0, 1.0, 4000)
    assert outer_quantiles(drawn, 2.0, level) == pytest.approx(tuple(np.quantile(drawn, (level, 1 - level))))


@pytest.mark.parametrize("level", [1e-3, 1e-4, 1e-5])
def test_quantiles_without_are_those_of_a_normal_tail(level: float) -> None:
    """The outermost of 1000 draws lies at 3.2 standard deviations on average; the quantile at 1e-5 at 4.3."""
    ends = [outer_quantiles(np.random.default_rng(seed).normal(5.0, 2.0, 1000), 5.0, level) for seed in range(40)]
    low, high = np.mean(ends, axis=0)
    expected = scipy.stats.norm(5.0, 2.0).ppf((level, 1 - level))
    assert (low, high) == pytest.approx(tuple(expected), rel=0.04)


def test_ends_are_never_inside_the_estimate() -> None:
    assert outer_quantiles(np.full(1000, 3.0), 2.0, 0.025) == (2.0, 3.0)
    assert outer_quantiles(np.full(1000, 1.0), 2.0, 0.025) == (1.0, 2.0)


@pytest.mark.parametrize("level", [0.005, 0.025, 0.5, 0.9, 0.995])
@pytest.mark.parametrize("freedom", [9, 30, 1000])
def test_quantiles_are_students(level: float, freedom: int) -> None:
    assert student_quantile(level, freedom) == pytest.approx(scipy.stats.t.ppf(level, freedom), abs=0.002)

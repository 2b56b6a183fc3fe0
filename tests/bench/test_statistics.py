from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from scripted import MACHINE, MS

from edgeseg.bench.noise import Disturbance, judge_noise
from edgeseg.bench.statistics import paired_ratio, student_over_normal, summarize
from edgeseg.errors import DataError


def test_summary_equals_scipy():
    values = np.random.default_rng(0).lognormal(2, 1, 137)
    summary = summarize([int(value * 1000) for value in values])
    rounded = (values * 1000).astype(int)
    assert summary.median == np.median(rounded)
    assert summary.p90 == pytest.approx(scipy.stats.scoreatpercentile(rounded, 90))
    assert summary.p99 == pytest.approx(scipy.stats.scoreatpercentile(rounded, 99))
    assert summary.mad == pytest.approx(scipy.stats.median_abs_deviation(rounded))
    assert (summary.count, summary.minimum) == (137, rounded.min())


def machine_noise(rng: np.random.Generator, rounds: int, memory: float = 0.9) -> np.ndarray:
    """Load common to a round and correlated from round to round, as other processes make it."""
    common = np.zeros(rounds)
    for i in range(1, rounds):
        common[i] = memory * common[i - 1] + rng.normal(0, 0.1)
    return np.exp(common)


def test_interval_of_the_ratio_covers_the_truth_on_a_busy_machine():
    rng = np.random.default_rng(1)
    trials, covered, widths = 400, 0, []
    for seed in range(trials):
        load = machine_noise(rng, 60)
        a = load * rng.lognormal(0, 0.05, 60) * 10 * MS
        b = load * rng.lognormal(0, 0.05, 60) * 12 * MS
        interval = paired_ratio(a, b, resamples=500, seed=seed).value
        covered += interval.low <= 1.2 <= interval.high
        widths.append(interval.high - interval.low)
    assert 0.91 <= covered / trials <= 0.99
    # Pairing removes the common load, whose standard deviation is about 0.2: the interval stays narrow.
    assert np.median(widths) < 0.06


def test_interval_is_honest_where_disturbances_outlast_a_round_and_hit_one_candidate_more():
    rng = np.random.default_rng(2)
    trials, covered = 300, 0
    for seed in range(trials):
        a = 10 * MS * rng.lognormal(0, 0.02, 200)
        b = 10 * MS * machine_noise(rng, 200, memory=0.8) ** 0.3
        interval = paired_ratio(a, b, resamples=400, seed=seed).value
        covered += interval.low <= 1.0 <= interval.high
    # Resampling single rounds would cover about 60 %.
    assert covered / trials >= 0.8


@pytest.mark.parametrize("rounds", [8, 20])
def test_few_rounds_widen_the_interval(rounds: int):
    """Without Student's factor these cover 86 and 91 %."""
    rng = np.random.default_rng(3)
    trials, covered = 500, 0
    for seed in range(trials):
        a, b = (10 * MS * rng.lognormal(0, 0.05, rounds) for _ in range(2))
        interval = paired_ratio(a, b, resamples=400, seed=seed).value
        covered += interval.low <= 1.0 <= interval.high
    assert 0.92 <= covered / trials <= 0.995


@pytest.mark.parametrize("freedom", [4, 9, 30, 200])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_the_widening_is_students(freedom: int, confidence: float):
    tail = 0.5 + confidence / 2
    wanted = scipy.stats.t.ppf(tail, freedom) / scipy.stats.norm.ppf(tail)
    assert student_over_normal(freedom, confidence) == pytest.approx(wanted, rel=0.03)


def test_pairing_uses_the_median_of_each_turn():
    a = [10, 1000, 10, 20, 20, 2000]
    b = [5, 5, 500, 10, 1, 10]
    assert paired_ratio(a, b, runs_per_turn=3).value.estimate == 0.5


def test_a_ratio_needs_common_rounds():
    with pytest.raises(DataError, match="common rounds"):
        paired_ratio([1, 2, 3], [1, 2])
    with pytest.raises(DataError, match="common rounds"):
        paired_ratio([1], [1])


def kinds(samples, **arguments) -> set[Disturbance]:
    facts = {"first_run_ns": None, "load": None, "machine": MACHINE} | arguments
    return {finding.kind for finding in judge_noise([int(v) for v in samples], **facts).findings}


def test_noise_is_named():
    rng = np.random.default_rng(0)
    quiet = 10 * MS * rng.normal(1, 0.005, 60)
    assert kinds(quiet) == set()
    assert judge_noise([int(v) for v in quiet], first_run_ns=None, load=None, machine=MACHINE).quiet
    spikes = quiet.copy()
    spikes[::6] *= 3
    assert kinds(spikes) == {Disturbance.OUTLIERS}
    assert kinds(quiet * np.linspace(1, 1.2, 60)) >= {Disturbance.DRIFT}
    assert kinds(10 * MS * rng.uniform(0.5, 1.5, 60)) >= {Disturbance.SPREAD}
    assert kinds(quiet[:5]) == {Disturbance.FEW_SAMPLES}
    assert kinds(quiet, first_run_ns=50 * MS) == {Disturbance.SLOW_FIRST_RUN}


def test_every_finding_carries_advice():
    verdict = judge_noise([1, 50, 2, 90], first_run_ns=900, load=None, machine=MACHINE)
    assert verdict.findings
    assert all(finding.advice and finding.what for finding in verdict.findings)


def test_a_ratio_of_few_noisy_rounds_is_never_negative():
    base = [26, 1, 1, 1, 26, 1, 26, 1, 1]
    candidate = [30, 100, 30, 190, 30, 30, 13, 30, 60]
    interval = paired_ratio([MS * one for one in base], [MS * one for one in candidate]).value
    assert 0.0 <= interval.low <= interval.estimate <= interval.high

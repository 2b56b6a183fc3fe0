"""Statistics of latency samples: summary, and the ratio of two candidates that were measured in the same rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from edgeseg.errors import DataError
from edgeseg.interval import Interval, outer_quantiles, student_quantile

__all__ = [
    "PairedRuns",
    "Ratio",
    "Summary",
    "block_count",
    "paired_ratio",
    "per_round",
    "student_over_normal",
    "summarize",
]

Samples: TypeAlias = Sequence[int] | npt.NDArray[np.int64]
Float64: TypeAlias = npt.NDArray[np.float64]


class Summary(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Nanoseconds. ``mad`` is the median absolute deviation from the median, not scaled."""

    count: int
    median: float
    p90: float
    p99: float
    minimum: float
    mean: float
    mad: float


class Ratio(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Time of a candidate divided by time of the base; below 1 the candidate is faster.

    Attributes:
        value: median over rounds of candidate / base, with its interval.
        of_medians: median of all the candidate's samples / median of all the base's, for comparison with other tools.
        rounds: rounds that both took part in.
    """

    value: Interval
    of_medians: float
    rounds: int


@dataclass(frozen=True)
class PairedRuns:
    """Samples of two candidates that took turns, from which ratios of any confidence follow.

    Attributes:
        base, candidate: ns, in the order measured.
        runs_per_turn: neighbours that belong to one round.
        resamples, seed: of the bootstrap.
    """

    base: Samples
    candidate: Samples
    runs_per_turn: int = 1
    resamples: int = 2000
    seed: int = 0

    @property
    def rounds(self) -> int:
        return len(self.candidate) // self.runs_per_turn

    def ratio(self, confidence: float = 0.95) -> Ratio:
        """Candidate / base; see :func:`paired_ratio`."""
        return paired_ratio(
            self.base,
            self.candidate,
            runs_per_turn=self.runs_per_turn,
            confidence=confidence,
            resamples=self.resamples,
            seed=self.seed,
        )


def summarize(samples: Samples) -> Summary:
    """Summary of one candidate's samples in ns. Percentiles interpolate linearly (numpy's default).

    >>> summarize([1, 2, 3, 4, 100]).median
    3.0
    """
    values = np.asarray(samples, np.float64)
    if values.size == 0:
        raise DataError("There are no latency samples.", hint="Measure at least one round.")
    median, p90, p99 = (float(q) for q in np.percentile(values, (50, 90, 99)))
    return Summary(
        count=int(values.size),
        median=median,
        p90=p90,
        p99=p99,
        minimum=float(values.min()),
        mean=float(values.mean()),
        mad=float(np.median(np.abs(values - median))),
    )


def per_round(samples: Samples, runs_per_turn: int) -> Float64:
    """One value a round: the median of the turn's runs. float64 (rounds,)."""
    values: Float64 = np.median(np.asarray(samples, np.float64).reshape(-1, runs_per_turn), axis=1)
    return values


def paired_ratio(
    base: Samples,
    candidate: Samples,
    *,
    runs_per_turn: int = 1,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Ratio:
    """Ratio candidate / base, paired by round, with a percentile interval from a circular block bootstrap.

    What disturbs a machine (another process, a change of clock rate) lasts longer than a run, so neighbouring runs of both
    candidates are hit alike: the ratio within a round cancels it. What is left is still correlated from round to round, and a
    bootstrap of single rounds would give too narrow an interval; resampling blocks of neighbouring rounds keeps the
    correlation (Politis & Romano 1992, A circular block-resampling procedure for stationary data). A block has
    ``ceil(n ** (1/3))`` rounds, the growth that is optimal for estimating a variance (Hall, Horowitz & Jing 1995, On blocking
    rules for the bootstrap with dependent data).

    A bootstrap's interval is too narrow by as much as the normal distribution's is against Student's: few blocks tell little of
    how much they vary. Its ends are moved outwards by the ratio of the two quantiles, with one degree of freedom less than there
    are blocks (Efron & Tibshirani 1993, An Introduction to the Bootstrap, section 12.5, for the t of a mean).

    Raises:
        DataError: the candidates did not take part in the same rounds, or in fewer than 2.
    """
    a, b = per_round(base, runs_per_turn), per_round(candidate, runs_per_turn)
    if a.size != b.size or a.size < 2:
        raise DataError(
            f"A ratio needs at least 2 common rounds; the base has {a.size}, the candidate {b.size}.",
            hint="Measure both in one run.",
        )
    ratios = b / a
    n = ratios.size
    length, blocks = _block_length(n), block_count(n)
    starts = np.random.default_rng(seed).integers(0, n, (resamples, blocks))
    index = (starts[:, :, None] + np.arange(length)) % n
    medians = np.median(ratios[index.reshape(resamples, -1)[:, :n]], axis=1)
    estimate = float(np.median(ratios))
    low, high = outer_quantiles(medians, estimate, (1.0 - confidence) / 2.0)
    wider = student_over_normal(blocks - 1, confidence)
    return Ratio(
        value=Interval(
            estimate=estimate,
            low=max(estimate - wider * (estimate - low), 0.0),  # no ratio of times is negative, however few the rounds
            high=estimate + wider * (high - estimate),
            confidence=confidence,
        ),
        of_medians=float(np.median(np.asarray(candidate)) / np.median(np.asarray(base))),
        rounds=n,
    )


def block_count(rounds: int) -> int:
    """How many blocks :func:`paired_ratio` cuts so many rounds into."""
    return -(-rounds // _block_length(rounds))


def _block_length(rounds: int) -> int:
    return int(np.ceil(rounds ** (1 / 3)))


def student_over_normal(freedom: int, confidence: float) -> float:
    """Two-sided quantile of Student's distribution over that of the normal one.

    >>> round(student_over_normal(14, 0.95) * 1.959964, 2)
    2.14
    """
    level = 0.5 + confidence / 2
    return student_quantile(level, max(freedom, 1)) / NormalDist().inv_cdf(level)

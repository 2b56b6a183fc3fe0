"""Can these samples be trusted? What disturbed them, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec
import numpy as np

from edgeseg.bench.load import LoadShare
from edgeseg.bench.machine import MachineFacts
from edgeseg.bench.statistics import summarize

__all__ = ["Disturbance", "NoiseFinding", "NoiseVerdict", "judge_noise"]


class Disturbance(StrEnum):
    OUTLIERS = "outliers"
    SPREAD = "spread"
    DRIFT = "drift"
    OTHER_LOAD = "other-load"
    FEW_SAMPLES = "few-samples"
    SLOW_FIRST_RUN = "slow-first-run"
    GOVERNOR = "governor"


class NoiseFinding(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One disturbance: what was seen, and what to do about it."""

    kind: Disturbance
    what: str
    advice: str


class NoiseVerdict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``quiet``: the median stands for the machine's own speed. Findings of kind slow-first-run and governor are facts to know,
    they do not make a measurement noisy."""

    quiet: bool
    findings: tuple[NoiseFinding, ...] = ()


# A sample is an outlier where its modified z-score, 0.6745 |x - median| / MAD, is above 3.5 (Iglewicz & Hoaglin 1993, How to
# Detect and Handle Outliers). Some are normal in latency samples, whose right tail is long.
_Z_LIMIT = 3.5
_OUTLIER_SHARE = 0.10
_SPREAD = 0.05
_DRIFT = 0.05
_OTHER_CORES = 0.10
_FEW = 10
_FIRST_RUN = 2.0
_HARMLESS = frozenset({Disturbance.SLOW_FIRST_RUN, Disturbance.GOVERNOR})


def judge_noise(
    samples: Sequence[int], *, first_run_ns: int | None, load: LoadShare | None, machine: MachineFacts | None
) -> NoiseVerdict:
    """Judge one candidate's invoke samples (ns, in the order measured).

    Args:
        first_run_ns: the first run of the warm-up.
        load: what else the machine did meanwhile.
    """
    findings = [
        *_few(samples),
        *_outliers(samples),
        *_spread(samples),
        *_drift(samples),
        *_other_load(load),
        *_first_run(samples, first_run_ns),
        *_governor(machine),
    ]
    return NoiseVerdict(quiet=all(f.kind in _HARMLESS for f in findings), findings=tuple(findings))


def _few(samples: Sequence[int]) -> list[NoiseFinding]:
    if len(samples) >= _FEW:
        return []
    return [
        NoiseFinding(
            kind=Disturbance.FEW_SAMPLES,
            what=f"only {len(samples)} samples",
            advice="Raise the time budget or the number of rounds.",
        )
    ]


def _outliers(samples: Sequence[int]) -> list[NoiseFinding]:
    values = np.asarray(samples, np.float64)
    summary = summarize(samples)
    # The resolution of the clock is the least spread that means anything.
    score = 0.6745 * np.abs(values - summary.median) / max(summary.mad, 1.0)
    far = (score > _Z_LIMIT) & (np.abs(values - summary.median) > _SPREAD * summary.median)
    share = float(np.mean(far))
    if share <= _OUTLIER_SHARE:
        return []
    return [
        NoiseFinding(
            kind=Disturbance.OUTLIERS,
            what=f"{share:.0%} of the runs are outliers, the slowest {values.max() / summary.median:.1f} times the median",
            advice="Close other programs and measure again; the ratio of candidates in one run can still be used.",
        )
    ]


def _spread(samples: Sequence[int]) -> list[NoiseFinding]:
    summary = summarize(samples)
    if summary.mad <= _SPREAD * summary.median:
        return []
    return [
        NoiseFinding(
            kind=Disturbance.SPREAD,
            what=f"half of the runs are further than {summary.mad / summary.median:.0%} from the median",
            advice="Use fewer threads than the machine has cores, and close other programs.",
        )
    ]


def _drift(samples: Sequence[int]) -> list[NoiseFinding]:
    third = len(samples) // 3
    if third < 3:
        return []
    change = float(np.median(samples[-third:]) / np.median(samples[:third]) - 1.0)
    if abs(change) <= _DRIFT:
        return []
    direction = "slower" if change > 0 else "faster"
    cause = "throttles or another load began" if change > 0 else "was still warming up or another load ended"
    return [
        NoiseFinding(
            kind=Disturbance.DRIFT,
            what=f"the last third of the runs is {abs(change):.0%} {direction} than the first",
            advice=f"The machine {cause}: let it come to rest, or lengthen the warm-up, and measure again.",
        )
    ]


def _other_load(load: LoadShare | None) -> list[NoiseFinding]:
    if load is None or load.other_cores <= _OTHER_CORES * load.cores:
        return []
    return [
        NoiseFinding(
            kind=Disturbance.OTHER_LOAD,
            what=f"other processes used {load.other_cores:.1f} of {load.cores} cores",
            advice="Stop them, or compare only ratios measured in one run.",
        )
    ]


def _first_run(samples: Sequence[int], first_run_ns: int | None) -> list[NoiseFinding]:
    median = summarize(samples).median
    if first_run_ns is None or first_run_ns <= _FIRST_RUN * median:
        return []
    return [
        NoiseFinding(
            kind=Disturbance.SLOW_FIRST_RUN,
            what=f"the first run took {first_run_ns / median:.1f} times the median",
            advice="It is not part of the samples; an application should run once before its user waits.",
        )
    ]


def _governor(machine: MachineFacts | None) -> list[NoiseFinding]:
    if machine is None or machine.governor in {None, "performance"}:
        return []
    return [
        NoiseFinding(
            kind=Disturbance.GOVERNOR,
            what=f"the CPU frequency governor is '{machine.governor}'",
            advice="For steady clock rates: sudo cpupower frequency-set -g performance",
        )
    ]

"""Where on the way from the model to the file that ships a loss arises."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from edgeseg.metrics.counts import ImageCounts
from edgeseg.metrics.evidence import MIOU, Delta, Evidence

__all__ = ["Waterfall", "WaterfallStep", "build_waterfall"]

_LEAST_LOSS = 0.0005
_MANY_FLIPS = 0.02


class WaterfallStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One file of the chain against the one before it.

    Attributes:
        stage: what made the file: ``export``, ``lower``, ``quantize`` ...
        runtime: what ran it.
        miou: of both; ``change`` is what this stage costs (negative) or gives.
        flips: share of the counted pixels whose class this stage changed, 0..1.
    """

    stage: str
    runtime: str
    miou: Delta
    flips: float


class Waterfall(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``culprit``: the stage that costs most, where its interval lies below 0 and it costs at least 0.05 points; else None."""

    start: str
    steps: tuple[WaterfallStep, ...]
    culprit: str | None

    @property
    def busiest(self) -> WaterfallStep | None:
        """Where no loss is measurable: the stage that changes most decisions. A fault that costs nothing on these images, in
        padding say, shows here alone. None where nothing changes."""
        most = max(self.steps, key=lambda step: step.flips, default=None)
        return most if self.culprit is None and most is not None and most.flips > 0.0 else None

    @property
    def restless(self) -> WaterfallStep | None:
        """``busiest``, if it changes more than int8 usually does (2 %). On few images a real fault may hide in the interval."""
        return self.busiest if self.busiest is not None and self.busiest.flips > _MANY_FLIPS else None


def build_waterfall(
    stages: Sequence[str],
    runtimes: Sequence[str],
    counts: Sequence[ImageCounts],
    flips: Sequence[float],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Waterfall:
    """From the counts of every file on the same images, the model's own first.

    Args:
        stages: names, the model's first.
        runtimes: as ``stages``.
        counts: as ``stages``.
        flips: share of pixels that changed from one to the next; one fewer.

    Raises:
        DataError: the counts are of different images.
    """
    steps = tuple(
        WaterfallStep(
            stage=stages[index],
            runtime=runtimes[index],
            miou=Evidence.pair(counts[index - 1], counts[index], resamples=resamples, seed=seed).delta(MIOU, confidence),
            flips=flips[index - 1],
        )
        for index in range(1, len(stages))
    )
    sure = [
        step
        for step in steps
        if step.miou.interval is not None and step.miou.interval.high < 0.0 and step.miou.change <= -_LEAST_LOSS
    ]
    worst = min(sure, key=lambda step: step.miou.change, default=None)
    return Waterfall(start=f"{stages[0]} ({runtimes[0]})", steps=steps, culprit=worst.stage if worst else None)

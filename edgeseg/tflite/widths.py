"""A tensor's own estimator, where a wider range than all tensors started with does less harm at the output, or hardly more.

A few images judge, and what lies outside a range is clipped on every image to come: an object that was not among them is then
lost whole (docs/adr/0006). So ranges are only ever widened here: tightening them too gained 0.2 dB on ESPNet, and nothing on
images that had not judged. Of the wider ones the widest is taken that does hardly more harm than the best of them: with no
operator in float there are hundreds of tensors, and what each may cost beside the best adds up.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np

from edgeseg.quantize.observe import Observer
from edgeseg.quantize.plan import TensorQuant
from edgeseg.quantize.ranges import choose
from edgeseg.tflite.harm import HarmMeter

__all__ = ["choose_widths"]

_HARDLY_MORE = 1.1  # times the least harm: what a wider range may cost
_HARDLY_ANY = 0.05  # of the mean harm


def choose_widths(
    observers: Mapping[str, Observer],
    ranges: Mapping[str, TensorQuant],
    names: Collection[str],
    meter: HarmMeter,
    *,
    estimators: Collection[str],
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, TensorQuant]:
    """The tensors of ``names`` whose range changes, with the new one. Once ``stop`` says so no more are measured.

    Args:
        observers: statistics of every tensor of ``names``.
        ranges: what they have now.
        meter: measures.
        estimators: to choose among.
    """
    widths: dict[str, list[TensorQuant]] = {}
    harm: dict[str, list[float]] = {}
    for name in names:
        if stop():
            break
        widths[name] = _by_width(observers[name], estimators, ranges[name])
        harm[name] = meter.measure(name, [ranges[name], *widths[name]])
    mean = float(np.mean([noises[0] for noises in harm.values()])) if harm else 0.0
    chosen: dict[str, TensorQuant] = {}
    for name, (start, *noises) in harm.items():
        allowed = max(_HARDLY_MORE * min([start, *noises]), _HARDLY_ANY * mean)
        found = [quant for quant, noise in zip(widths[name], noises, strict=True) if noise <= allowed]
        if start > 0 and found:
            chosen[name] = found[0]
    return chosen


def _by_width(observer: Observer, estimators: Collection[str], current: TensorQuant) -> list[TensorQuant]:
    """The other estimators' wider quantizations, the widest first, each width once."""
    quants = [choose(observer, estimator=name) for name in estimators]
    found = {quant.scale[0]: quant for quant in quants if quant.scale[0] > current.scale[0]}
    return [found[scale] for scale in sorted(found, reverse=True)]
